# SPDX-License-Identifier: Apache-2.0
"""Restart, upgrade, refusal and removal of the kernel half."""

import errno
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.dataplane import bpf, compiler, kernel, source
from agent.dataplane.cleanup import cleanup
from agent.dataplane.compiler import check_maps
from agent.dataplane.layout import BPFFS, MAPS, PROGRAMS, Pins
from agent.dataplane.loader import load
from agent.errors import AbiMismatchError, AttachError, LoadError
from tests.kernel.node import REMOTE_V4, Node
from tests.kernel.pods import Lan, Pod, sh

MakePod = Callable[..., Pod]


def _link_ids(node: Node) -> dict[str, tuple[int, int]]:
    """Link -> (its number, its program's)."""
    found = {}
    for pin in Pins(node.name).links.iterdir():
        fd = bpf.obj_get(str(pin))
        info = bpf.link_info(fd)
        found[pin.name] = (info.id, info.program_id)
        os.close(fd)
    return found


def _dial(address: str = REMOTE_V4, port: int = 80) -> int:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((address, port))


@pytest.mark.vm_short
def test_restart_adopts_everything(node: Node, make_pod: MakePod) -> None:
    pod, other = make_pod(), make_pod()
    ports = node.enrol(pod, other)[0].capture_ports
    links = _link_ids(node)
    server = other.serve(8080)
    client = pod.run_socket(lambda: socket.create_connection((other.v4, 8080), 2))
    served, _ = server.accept()
    node.stop()
    # Without an agent: captured connects fail fast, the direct path works and is attested.
    assert pod.run(_dial) == errno.ECONNREFUSED
    client.send(b"still here")
    assert served.recv(20) == b"still here"
    assert pod.run(lambda: _dial(other.v4, 8080)) == 0
    # Nobody may take a capture port meanwhile.
    with pytest.raises(OSError, match="in use"):
        pod.run(lambda: socket.create_server((pod.v4, ports[1])).close())
    node.start_again()
    assert node.dataplane.status().compiled is False
    assert _link_ids(node) == links
    node.apply(in_sync=False)
    assert node.enrolled(pod).capture_ports == ports
    assert pod.run(_dial) == 0
    assert node.captured(pod).original == (REMOTE_V4, 80)


def test_restart_drops_what_is_no_longer_wanted(node: Node, make_pod: MakePod) -> None:
    pod, other = make_pod(), make_pod()
    node.enrol(pod, other)
    node.stop()
    node.start_again()
    node.drop_pod(pod)
    node.apply(in_sync=False)
    assert node.map_size("enrollments") == 2
    node.apply()
    assert node.map_size("enrollments") == node.map_size("guarded_pods") == 1
    assert "28005" not in pod.sh("ip rule")
    assert "clsact" not in pod.sh("tc qdisc")


def test_new_programs_replace_old_ones_in_place(
    node: Node, make_pod: MakePod, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = make_pod()
    node.enrol(pod)
    before = _link_ids(node)
    monkeypatch.setattr(compiler, "fingerprint", lambda: "0123456789abcdef")
    node.stop()
    node.start_again()
    assert node.dataplane.status().compiled is True
    after = _link_ids(node)
    assert {name: ids[0] for name, ids in after.items()} == {
        name: ids[0] for name, ids in before.items()
    }
    assert all(after[name][1] != before[name][1] for name in before)
    node.apply()  # until every pod has the new filters, the old ones need their second halves
    assert len(list(Pins(node.name).root.glob("programs-*"))) == 1
    node.apply(in_sync=False)
    assert pod.run(_dial) == 0
    node.captured(pod)
    loaded = node.dataplane._loaded
    assert loaded is not None
    assert f"id {loaded.program('guard_ingress')[1]} " in pod.sh("tc filter show dev eth0 ingress")


def _links_on(cgroup: Path) -> int:
    """How many links there are on a cgroup, pinned or not."""
    count = 0
    for number in list(bpf.link_ids()):
        fd = bpf.link_fd(number)
        if fd is not None:
            count += bpf.link_info(fd).cgroup_id == kernel.cgroup_id(cgroup)
            os.close(fd)
    return count


@pytest.fixture
def scratch() -> Iterator[Pins]:
    pins = Pins(f"nmt-s{os.getpid()}.x")
    kernel.ensure_bpffs(BPFFS)
    try:
        yield pins
    finally:
        cleanup(pins.node)


def test_maps_of_another_layout_are_refused(scratch: Pins) -> None:
    scratch.maps.mkdir(parents=True)
    for name in ("workloads", "endpoints"):
        sh(
            f"bpftool map create {scratch.maps}/{name} type hash key 4 value 4 entries 1"
            f" name {name}"
        )
    with pytest.raises(AbiMismatchError, match=r"workloads.*; endpoints|endpoints.*; workloads"):
        check_maps(scratch.maps)
    assert set(scratch.maps.iterdir()) == {scratch.maps / "workloads", scratch.maps / "endpoints"}


def test_cleanup_removes_all_and_only_ours(scratch: Pins) -> None:
    lan = Lan(f"c{os.getpid()}")
    try:
        other = Node(lan, scratch.node)
        pod = lan.pod()
        before = pod.sh("ip rule; ip -6 rule; tc qdisc; sysctl net.ipv4.tcp_fwmark_accept")
        other.enrol(pod)
        attached = sum(one.attach_type >= 0 for one in PROGRAMS)
        everywhere = sum(one.everywhere for one in PROGRAMS)
        assert _links_on(lan.cgroup) == attached - everywhere
        other.stop()
        done = cleanup(scratch.node)
        assert (done.pods, done.links, done.pins) == (1, attached, True)
        assert pod.sh("ip rule; ip -6 rule; tc qdisc; sysctl net.ipv4.tcp_fwmark_accept") == before
        assert not scratch.node_root.exists()
        assert _links_on(lan.cgroup) == 0
        assert cleanup(scratch.node).pins is False
    finally:
        lan.close()


def test_links_follow_a_cgroup_that_was_made_again(scratch: Pins) -> None:
    lan = Lan(f"g{os.getpid()}")
    try:
        load(scratch, lan.cgroup_name).close()
        lan.cgroup.rmdir()
        lan.cgroup.mkdir()
        load(scratch, lan.cgroup_name).close()
        everywhere = {one.pin for one in PROGRAMS if one.everywhere}
        for pin in scratch.links.iterdir():
            fd = bpf.obj_get(str(pin))
            where = kernel.cgroup2_mount() if pin.name in everywhere else lan.cgroup
            assert bpf.link_info(fd).cgroup_id == kernel.cgroup_id(where)
            os.close(fd)
    finally:
        lan.close()


def test_a_failed_compilation_names_file_and_line_and_leaves_nothing(
    scratch: Pins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = source.bpf_directory()
    for part in source.PARTS:
        text = (home / part).read_text()
        (tmp_path / part).write_text(text + ("int broken = nothing;\n" if part == "bind.c" else ""))
    monkeypatch.setattr(compiler, "joined_source", lambda: source.joined_source(tmp_path))
    with pytest.raises(LoadError, match=r"bpf/bind.c:\d+:\d+: error: use of undeclared"):
        compiler.ensure_programs(scratch)
    assert list(scratch.root.iterdir()) == []


@pytest.mark.skipif("NODEMESH_VM" in os.environ, reason="newer kernels' own headers warn")
def test_the_sources_compile_without_a_warning(
    scratch: Pins, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = compiler._flags()
    monkeypatch.setattr(compiler, "_flags", lambda: [*flags, "-Werror"])
    assert compiler.ensure_programs(scratch)[1] is True


def test_a_refused_program_ends_with_the_verifiers_words(
    scratch: Pins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = source.bpf_directory()
    for part in source.PARTS:
        (tmp_path / part).write_text((home / part).read_text())
    bind = tmp_path / "bind.c"
    text = bind.read_text()
    head, tail = text.split("int mesh_bind4(struct bpf_sock_addr *ctx)\n{\n")
    wild = "\tif (*(volatile int *)((long)ctx->user_port))\n\t\treturn 0;\n"
    bind.write_text(f"{head}int mesh_bind4(struct bpf_sock_addr *ctx)\n{{\n{wild}{tail}")
    monkeypatch.setattr(compiler, "joined_source", lambda: source.joined_source(tmp_path))
    with pytest.raises(LoadError, match=r"(?s)program bind4.*invalid mem access"):
        compiler.ensure_programs(scratch)


def test_old_kernels_are_refused_by_name() -> None:
    with pytest.raises(LoadError, match=r"5\.10.* too old.*6\.1.*netns_cookie"):
        kernel.check_kernel("5.10.0-28-amd64")
    kernel.check_kernel("6.1.0-49-amd64")


def test_what_a_kernel_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="CONFIG_DEBUG_INFO_BTF"):
        kernel.check_btf(tmp_path / "vmlinux")
    for words in (
        "unknown func bpf_skc_to_mptcp_sock#196",
        "program of this type cannot use helper bpf_skc_to_mptcp_sock#196",
    ):
        said = compiler._explain("load", "connect4", f"12: call\n{words}\nprocessed 9 insns")
        assert said.startswith("This kernel lacks bpf_skc_to_mptcp_sock for the program connect4.")


@pytest.mark.parametrize("kind", ["owner", "link"])
def test_pins_of_somebody_else_are_refused(scratch: Pins, kind: str) -> None:
    """Everybody may write to the top of bpffs, and make our directory before us."""
    home = scratch.node_root
    home.parent.mkdir(exist_ok=True)
    if kind == "owner":
        home.mkdir()
        os.chown(home, 65534, 65534)
    else:
        home.symlink_to("/run")
    lan = Lan(f"o{os.getpid()}")
    try:
        with pytest.raises(AttachError, match="somebody else"):
            load(scratch, lan.cgroup_name)
    finally:
        lan.close()
        if kind == "link":
            home.unlink()


def test_an_agent_among_its_pods_is_refused() -> None:
    own = Path(f"/proc/{os.getpid()}/cgroup").read_text().splitlines()
    path = next(line.split("::")[1] for line in own if line.startswith("0::"))
    with pytest.raises(AttachError, match="cgroup of their own"):
        kernel.agent_cgroup_id(kernel.cgroup2_mount() / path.lstrip("/"))


def test_maps_show_their_fields_in_bpftool(node: Node) -> None:
    """BTF goes with the maps: people can read them without us."""
    node.add_remote()
    node.apply()
    path = Pins(node.name).maps / "workloads"
    shown = subprocess.run(
        ["bpftool", "map", "dump", "pinned", path], capture_output=True, text=True, check=True
    ).stdout
    assert '"workload_id": 500' in shown
    assert set(MAPS) == {pin.name for pin in Pins(node.name).maps.iterdir()}
