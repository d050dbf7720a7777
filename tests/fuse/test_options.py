# SPDX-License-Identifier: GPL-3.0-or-later
"""Mount options: ours, those of fstab, and what each front-end makes of the others."""

from pathlib import Path

import pytest

from cas3fs.errors import UsageError
from cas3fs.fuse.kernel.channel import FLAG_NAMES, Channel
from cas3fs.fuse.kernel_frontend.session import channel_options, refuse_unknown
from cas3fs.fuse.llfuse_frontend.session import libfuse_options
from cas3fs.fuse.mountpoints import url_of
from cas3fs.fuse.options import parse_options


def test_our_options_are_parsed_and_the_others_passed_on() -> None:
    options = parse_options(["ro", "uid=5", "timeout=0.5", "noatime", "max_read=4096", "nonempty"], is_root=False)
    assert (options.read_only, options.uid, options.gid, options.timeout_s) == (True, 5, None, 0.5)
    assert options.nonempty
    assert options.passed_on == {"noatime", "max_read=4096"}


@pytest.mark.parametrize("option", ["uid=root", "gid=", "timeout=x", "uid=-1"])
def test_an_invalid_number_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match=option.partition("=")[0]):
        parse_options([option], is_root=False)


def test_mounts_of_root_allow_other_users_by_default() -> None:
    assert parse_options([], is_root=True).allow_other
    assert not parse_options(["noallow_other"], is_root=True).allow_other
    assert not parse_options([], is_root=False).allow_other
    assert "allow_other" in parse_options(["allow_other"], is_root=False).passed_on


def test_what_is_meant_for_mount_8_and_systemd_is_ignored() -> None:
    given = (
        "defaults,auto,noauto,user,user=me,nouser,users,owner,group,nofail,_netdev,comment=c,x-systemd.automount,X-a"
    )
    assert parse_options(given.split(","), is_root=False).passed_on == frozenset()


def test_our_front_end_knows_the_options_of_mount_8() -> None:
    given = [*FLAG_NAMES, "allow_other", "default_permissions", "max_read=4096", "context=a:b:c", "rootcontext=d"]
    options = parse_options(given, is_root=False)
    refuse_unknown(options)
    channel = channel_options(options, "file:///v", read_only=False)
    assert set(channel.flags) == FLAG_NAMES - {"ro", "rw"}
    assert (channel.allow_other, channel.max_read) == (True, 4096)
    assert channel.security == ("context=a:b:c", "rootcontext=d")
    assert "ro" in channel_options(parse_options([], is_root=False), "file:///v", read_only=True).flags


def test_a_label_that_the_kernel_cannot_use_is_named(need_fuse: None, tmp_path: Path) -> None:
    """Without SELinux the kernel refuses labels; with it, it refuses one that no policy knows."""
    options = channel_options(parse_options(['context="a:b,c"'], is_root=False), "file:///v", read_only=False)
    with pytest.raises(Exception, match='context="a:b,c"'):
        Channel.mount(tmp_path, options)


def test_libfuse_gets_the_url_and_the_permission_checks() -> None:
    given = libfuse_options(parse_options([], is_root=False), "file:///a,b", 16, read_only=True)
    assert {"fsname=file:///a\\,b", "subtype=cas3fs", "default_permissions", "big_writes", "ro"} <= given


@pytest.mark.promise("surroundings-may-change")
@pytest.mark.parametrize(
    "url", ["s3://bucket/bücher, %20 mehr", "s3://bucket/a%2Fb", "file:///b%C3%BCcher", "s3://b/a+b#?"]
)
def test_any_url_survives_as_the_ascii_source_of_a_mount(url: str) -> None:
    given = libfuse_options(parse_options([], is_root=False), url, 16, read_only=False)
    (source,) = (option.removeprefix("fsname=") for option in given if option.startswith("fsname="))
    assert source.isascii()
    assert url_of(source.replace("\\,", ",")) == url


def test_read_ahead_leaves_half_of_the_workers_free() -> None:
    assert "max_background=8" in libfuse_options(parse_options([], is_root=False), "u", 16, read_only=False)
