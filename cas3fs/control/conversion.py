# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests and replies to and from JSON, with every type checked.

attrs writes them, and cattrs reads them. cattrs is imported when the first message is read, as `cas3fs --help` does not
need it. By itself it converts a number to a text where one is expected; here a value of the wrong type is an error. An
unknown key is ignored, as a process of a newer version may send it.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args, get_origin

import attrs

from cas3fs.control.messages.base import SENT_AS_NULL, Request
from cas3fs.control.protocol import Message
from cas3fs.errors import ControlError
from cas3fs.snapshots.policy import RetentionPolicy

if TYPE_CHECKING:
    from cattrs import Converter

R = TypeVar("R")
_PLAIN: Final = (str, bool, int, float)


def encode_args(request: Request[Any]) -> Message:
    """The ``args`` of a request. Of a policy only the rules that are set: an older process may not know the others."""
    args = dict(request.constants) | attrs.asdict(request, recurse=False)  # type: ignore[arg-type]
    return {name: _set_rules(value) if attrs.has(type(value)) else value for name, value in args.items()}


def _set_rules(policy: Any) -> Message:
    return attrs.asdict(policy, filter=lambda field, value: value != field.default)


def encode_reply(reply: Any) -> Message:
    """A reply as it is sent, and as ``--json`` prints it."""
    return attrs.asdict(
        reply,
        filter=lambda field, value: value is not None or field.default is not None or field.metadata == SENT_AS_NULL,
    )


def decode_request(kinds: Sequence[type[Request[Any]]], args: Message) -> Request[Any]:
    """The request in `args`: of the first of `kinds` whose constants are among them, else of the first.

    Raises:
        ControlError: a field is missing or of the wrong type.
    """
    fitting = (one for one in kinds if all(args.get(name) == value for name, value in one.constants.items()))
    kind = next(fitting, kinds[0])
    request: Request[Any] = _structure(args, kind, f"invalid request {kind.verb!r}: {{problems}}")
    return request


def decode_reply(request: Request[R], reply: Message) -> R:
    """The reply to a request.

    Raises:
        ControlError: a field is missing or of the wrong type, as only another version of cas3fs sends it.
    """
    decoded: R = _structure(
        reply,
        request.reply,
        "the mount process runs another version of cas3fs than this command "
        f"(reply to {request.verb!r}: {{problems}}): unmount the volume and mount it again",
    )
    return decoded


def _structure(value: Message, kind: Any, text: str) -> Any:
    from cattrs import transform_error
    from cattrs.errors import BaseValidationError

    try:
        return _converter().structure(dict(value), kind)  # a plain one: cattrs notices what is missing
    except BaseValidationError as error:
        first, *others = transform_error(error)
        more = f", and {len(others)} more" if others else ""
        raise ControlError(text.format(problems=first + more)) from error


def _converter() -> "Converter":
    """What reads a message. It is made for each: that takes a millisecond, and there are few."""
    from cattrs import Converter
    from cattrs.gen import make_dict_structure_fn

    converter = Converter(forbid_extra_keys=False)
    for kind in _PLAIN:
        converter.register_structure_hook(kind, _exactly(kind))
    # a rule that is not known here must not be dropped: the policy would delete what it is to keep
    strict = make_dict_structure_fn(RetentionPolicy, converter, _cattrs_forbid_extra_keys=True)
    converter.register_structure_hook(RetentionPolicy, strict)
    converter.register_structure_hook_func(_is_dict, _read_dict)
    converter.register_structure_hook_func(_is_sequence, lambda value, kind: _read_sequence(converter, value, kind))
    return converter


def _exactly(expected: type) -> Callable[[Any, Any], Any]:
    allowed = (int, float) if expected is float else (expected,)

    def read(value: Any, _: Any) -> Any:
        if not isinstance(value, allowed) or (isinstance(value, bool) and expected is not bool):
            raise TypeError(f"{value!r} is not of the type {expected.__name__}")
        return value

    return read


def _is_dict(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is dict


def _is_sequence(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin in (list, tuple)


def _read_dict(value: Any, _: Any) -> Any:
    """The object as it came: its keys are looked up where they are needed."""
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def _read_sequence(converter: "Converter", value: Any, kind: Any) -> Any:
    if not isinstance(value, list):
        raise TypeError("not a list")
    origin: Any = get_origin(kind)
    return origin(converter.structure(one, get_args(kind)[0]) for one in value)
