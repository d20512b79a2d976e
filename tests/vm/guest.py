# SPDX-License-Identifier: Apache-2.0
"""Boot a kernel in qemu over this machine's own files and run one command there.

The guest sees the host's / read-only under an overlay in memory; what it writes is gone with it.
"""

import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kernels import Kernel, boot_modules

TIMED_OUT = 124
DIED = 125

INIT = r"""#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /dev /lower /ram /new
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
for m in /modules/*.ko; do $b insmod $m || echo "guest: insmod $m failed"; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 root /lower
$b mount -t tmpfs ram /ram
$b mkdir /ram/upper /ram/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/ram/upper,workdir=/ram/work root /new
$b mount -t tmpfs run /new/run
$b mkdir /new/run/guest
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 guest /new/run/guest
$b mount --move /dev /new/dev
$b mount --move /proc /new/proc
exec $b switch_root /new /bin/bash /run/guest/start
"""

START = r"""
export PATH={path}:/usr/sbin:/sbin HOME=/root LANG=C.UTF-8 NODEMESH_VM={release}
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm /run/lock /run/netns
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount --make-rshared /
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mkdir -p /lib/modules/{release}
mount --bind {kernel}/lib/modules/{release} /lib/modules/{release}
for headers in {kernel}/usr/src/linux-headers-*; do
	mkdir -p /usr/src/${{headers##*/}}
	mount --bind $headers /usr/src/${{headers##*/}}
done
mount -t tmpfs none /mnt
ln -s /bin/kmod /mnt/modprobe
echo /mnt/modprobe >/proc/sys/kernel/modprobe
export PATH=$PATH:/mnt
ip link set lo up
ulimit -l unlimited
ulimit -n 65536
cd {cwd} && setsid -w bash -c {command} </dev/null >/run/guest/stdout 2>/run/guest/stderr
echo $? >/run/guest/rc.new
mv /run/guest/rc.new /run/guest/rc
echo b >/proc/sysrq-trigger
sleep 10
"""


def run(
    kernel: Kernel, command: list[str], *, cwd: Path, limit_seconds: float, memory_mb: int
) -> int:
    """Run ``command`` under ``kernel``; its output appears here as it comes.

    Returns the command's exit status, TIMED_OUT, or DIED when the guest ended without one (the end
    of its console is then on standard error).
    """
    folder = Path(tempfile.mkdtemp(prefix="nodemesh-vm."))
    try:
        (folder / "start").write_text(
            START.format(
                path=shlex.quote(os.environ["PATH"]),
                release=kernel.release,
                kernel=kernel.root,
                cwd=shlex.quote(str(cwd)),
                command=shlex.quote(shlex.join(command)),
            )
        )
        initrd = folder / "initrd"
        initrd.write_bytes(_initrd(kernel))
        with subprocess.Popen(
            _qemu(kernel, initrd, folder, memory_mb),
            stdin=subprocess.DEVNULL,
            # qemu dies with us. One thread here: the usual danger of preexec_fn is absent.
            preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL),  # noqa: PLW1509
        ) as qemu:
            try:
                return _watch(qemu, folder, limit_seconds)
            finally:
                qemu.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _watch(qemu: subprocess.Popen[bytes], folder: Path, limit_seconds: float) -> int:
    deadline = time.monotonic() + limit_seconds
    shown = {"stdout": 0, "stderr": 0}
    while True:
        gone = qemu.poll() is not None
        for name, out in (("stdout", sys.stdout.buffer), ("stderr", sys.stderr.buffer)):
            path = folder / name
            if path.exists():
                with path.open("rb") as stream:
                    stream.seek(shown[name])
                    data = stream.read()
                shown[name] += len(data)
                out.write(data)
                out.flush()
        if (folder / "rc").exists():
            return int((folder / "rc").read_text())
        if gone or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    what = "the guest ended by itself" if gone else f"no end after {limit_seconds:.0f} s"
    console = (folder / "console").read_text(errors="replace").splitlines()[-25:]
    print(f"vm: {what}; the end of its console:", *console, sep="\n", file=sys.stderr)
    return DIED if gone else TIMED_OUT


def _qemu(kernel: Kernel, initrd: Path, folder: Path, memory_mb: int) -> list[str]:
    # A guest's /dev/kvm may be there and yet useless (PVM): ask the CPU, too.
    flags = Path("/proc/cpuinfo").read_text()
    hardware = os.access("/dev/kvm", os.W_OK) and re.search(r"\b(vmx|svm)\b", flags)

    def share(tag: str, path: Path | str, options: str = "") -> list[str]:
        return [
            "-fsdev",
            f"local,id={tag},path={path},security_model=none,multidevs=remap{options}",
            "-device",
            f"virtio-9p-pci,fsdev={tag},mount_tag={tag}",
        ]

    return [
        "qemu-system-x86_64",
        *("-M", "q35", "-accel", "kvm" if hardware else "tcg,thread=multi,tb-size=512"),
        *("-cpu", "host" if hardware else "max,la57=off"),
        *("-m", str(memory_mb), "-smp", "2", "-nodefaults", "-no-user-config"),
        *("-display", "none", "-no-reboot", "-serial", f"file:{folder}/console"),
        *("-kernel", str(kernel.image), "-initrd", str(initrd)),
        *share("root", "/", ",readonly=on"),
        *share("guest", folder),
        "-append",
        "console=ttyS0 loglevel=4 panic=-1 reboot=t nokaslr mitigations=off cgroup_no_v1=all",
    ]


def _initrd(kernel: Kernel) -> bytes:
    """A newc archive of busybox, the boot modules in loading order, and /init."""
    files = [("bin", 0o40755, b""), ("modules", 0o40755, b"")]
    files.append(("bin/busybox", 0o100755, Path("/bin/busybox").read_bytes()))
    files.append(("init", 0o100755, INIT.encode()))
    files += [
        (f"modules/{index:02}.ko", 0o100644, data)
        for index, data in enumerate(boot_modules(kernel))
    ]
    out = bytearray()
    for inode, (name, mode, data) in enumerate([*files, ("TRAILER!!!", 0, b"")], 1):
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % value for value in fields) + name.encode() + b"\0"
        out += head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)
    return bytes(out)
