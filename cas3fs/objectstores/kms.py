# SPDX-License-Identifier: GPL-3.0-or-later
"""Data keys of AWS KMS: made and decrypted there, under a key that never leaves it.

The uuid of the volume is the *encryption context*: KMS binds it to the data key, and shows it in its own log.
"""

from typing import NamedTuple

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from cas3fs.errors import SecretWrong

_CONTEXT_NAME = "cas3fs-volume"


class DataKey(NamedTuple):
    """A data key, plain and as KMS has encrypted it."""

    plain: bytes
    encrypted: bytes


class KmsKey:
    """One key of KMS.

    Args:
        arn: its name: ``arn:aws:kms:REGION:ACCOUNT:key/ID``, or of an alias.
        endpoint_url: of another server that speaks the protocol.
    """

    def __init__(self, arn: str, endpoint_url: str | None = None) -> None:
        parts = arn.split(":")
        region = parts[3] if len(parts) > 3 else None
        self._arn = arn
        self._client = boto3.client("kms", region_name=region or None, endpoint_url=endpoint_url)

    def make(self, volume_uuid: str) -> DataKey:
        """A new data key of 32 bytes.

        Raises:
            SecretWrong: KMS refused.
        """
        try:
            made = self._client.generate_data_key(
                KeyId=self._arn, KeySpec="AES_256", EncryptionContext={_CONTEXT_NAME: volume_uuid}
            )
        except (ClientError, BotoCoreError) as error:
            raise SecretWrong(f"KMS does not give a data key of {self._arn}: {error}") from error
        return DataKey(made["Plaintext"], made["CiphertextBlob"])

    def decrypt(self, encrypted: bytes, volume_uuid: str) -> bytes:
        """The data key that `make` gave.

        Raises:
            SecretWrong: KMS refused.
        """
        try:
            answer = self._client.decrypt(
                KeyId=self._arn, CiphertextBlob=encrypted, EncryptionContext={_CONTEXT_NAME: volume_uuid}
            )
        except (ClientError, BotoCoreError) as error:
            raise SecretWrong(f"KMS does not decrypt with {self._arn}: {error}") from error
        return bytes(answer["Plaintext"])
