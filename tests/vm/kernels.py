# SPDX-License-Identifier: Apache-2.0
"""Debian kernels, fetched from the suites this machine already uses and laid out for the guest.

Nothing is installed: packages are unpacked into a cache folder of their own.
"""

import lzma
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("NODEMESH_VM_CACHE", "/var/cache/nodemesh-vm"))

# Modules that the guest needs before it can see the shared root: the bus, 9p, the overlay.
BOOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")

# Half of a kernel's size and nothing a test of ours touches.
UNUSED_MODULES = (  # by path below kernel/
    "sound",
    *(
        f"drivers/{name}"
        for name in ("gpu", "media", "scsi", "infiniband", "staging", "usb", "iio")
    ),
    *(f"drivers/net/{name}" for name in ("ethernet", "wireless")),
)


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel: ``root`` holds lib/modules, usr/src, vmlinux and modules.list."""

    root: Path
    release: str

    @property
    def image(self) -> Path:
        """The kernel as qemu's loader takes it."""
        return self.root / "vmlinux"

    @property
    def modules(self) -> Path:
        """lib/modules/<release> of this kernel."""
        return self.root / "lib/modules" / self.release


def fetch(series: str) -> Kernel:
    """The newest Debian kernel of a series such as ``6.1``; fetched once, then cached.

    Raises SystemExit with a sentence when the machine's suites hold none.
    """
    home = CACHE / series
    stamp = home / "release"
    if stamp.exists():
        return Kernel(home, stamp.read_text().strip())
    version = _newest(series)
    CACHE.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{series}.", dir=CACHE))
    try:
        _unpack(_wanted_packages(version), staging)
        release = f"{version}-amd64"
        kernel = Kernel(staging, release)
        for name in UNUSED_MODULES:
            shutil.rmtree(kernel.modules / "kernel" / name, ignore_errors=True)
        # kmod decides what it is by the name it is called by.
        subprocess.run(["depmod", "-b", staging, release], executable="/bin/kmod", check=True)
        kernel.image.write_bytes(_elf_inside(_packed_image(staging, release).read_bytes()))
        (staging / "release").write_text(release)
        shutil.rmtree(home, ignore_errors=True)
        staging.rename(home)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Kernel(home, release)


def boot_modules(kernel: Kernel) -> list[bytes]:
    """The modules of BOOT_MODULES and what they depend on, unpacked, in the order to load them."""
    depends: dict[str, list[str]] = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        depends[path] = needs.split()
    by_name = {re.sub(r"\.ko.*$", "", Path(p).name).replace("-", "_"): p for p in depends}
    order: list[str] = []
    for name in BOOT_MODULES:
        if (path := by_name.get(name)) is None:
            continue  # built in
        order += [p for p in (*reversed(depends[path]), path) if p not in order]
    out = []
    for path in order:
        data = (kernel.modules / path).read_bytes()
        out.append(lzma.decompress(data) if path.endswith(".xz") else data)
    return out


def _apt(*arguments: str, cwd: Path | None = None) -> str:
    return subprocess.run(
        [f"apt-{arguments[0]}", *arguments[1:]], check=True, text=True, capture_output=True, cwd=cwd
    ).stdout


def _newest(series: str) -> str:
    names = set(_apt("cache", "pkgnames", "linux-").split())
    versions = [
        match[1]
        for name in names
        if (match := re.fullmatch(rf"linux-image-({re.escape(series)}[.+-].*)-amd64", name))
        and not re.search("cloud|rt|unsigned", name)
        and f"linux-headers-{match[1]}-common" in names
    ]
    if not versions:
        raise SystemExit(
            f"no Debian kernel {series} with headers in this machine's suites: apt-get update?"
        )
    return max(versions, key=lambda v: [int(part) for part in re.findall(r"\d+", v)])


def _wanted_packages(version: str) -> list[str]:
    """The image, its headers, and (where Debian splits them) the parts the image depends on."""
    image = f"linux-image-{version}-amd64"
    depends = re.findall(
        r"Depends: (linux-(?:binary|modules|base)-\S+)", _apt("cache", "depends", image)
    )
    wanted = [image, f"linux-headers-{version}-amd64", f"linux-headers-{version}-common", *depends]
    for package in depends:
        wanted += re.findall(r"Depends: (linux-modules-\S+)", _apt("cache", "depends", package))
    known = set(_apt("cache", "pkgnames", "linux-").split())
    return sorted({name for name in wanted if name in known})


def _unpack(packages: list[str], into: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="nodemesh-vm.") as folder:
        _apt("get", "-qq", "download", "-o", "APT::Sandbox::User=root", *packages, cwd=Path(folder))
        for package in Path(folder).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, into], check=True)
    if not (into / "lib").exists():  # merged-/usr packages
        (into / "lib").symlink_to("usr/lib")


def _packed_image(root: Path, release: str) -> Path:
    for path in (root / f"boot/vmlinuz-{release}", root / f"usr/lib/modules/{release}/vmlinuz"):
        if path.exists():
            return path
    raise SystemExit(f"kernel {release}: the package holds no vmlinuz")


def _elf_inside(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage: entered by PVH, it spares an emulated CPU the unpacking."""
    for magic, unpack in (
        (b"\xfd7zXZ\0", lambda data: lzma.LZMADecompressor().decompress(data)),
        (b"\x28\xb5\x2f\xfd", _unzstd),
    ):
        for match in re.finditer(re.escape(magic), image):
            try:
                out: bytes = unpack(image[match.start() :])
            except lzma.LZMAError:
                continue
            if out.startswith(b"\x7fELF"):
                return out
    return image


def _unzstd(data: bytes) -> bytes:
    # A trailing non-zstd tail makes zstd exit non-zero after it wrote the frame: expected.
    return subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=False).stdout
