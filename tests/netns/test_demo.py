# SPDX-License-Identifier: Apache-2.0
"""`nodemesh demo` as a user meets it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.cluster import ROOT
from lab.host import NETNS_DIR, cgroup2_mount
from lab.manifest import lab_dir

pytestmark = pytest.mark.netns


def command(name, *options):
    return [sys.executable, "-m", "cli.main", "demo", "--name", name, *options]


def leftovers(name):
    netns = [p.name for p in NETNS_DIR.glob(f"{name}-*")] if NETNS_DIR.exists() else []
    cgroups = [str(p) for p in cgroup2_mount().glob(f"nodemesh-lab-{name}*")]
    pins = [str(p) for p in Path("/sys/fs/bpf/nodemesh").glob(f"{name}*")]
    state = [str(p) for p in Path("/run/nodemesh").glob(f"*{name}*")]
    return netns + cgroups + pins + state


def run(name, *options, **kwargs):
    return subprocess.run(
        command(name, *options), cwd=ROOT, capture_output=True, text=True, check=False, **kwargs
    )


@pytest.mark.timeout(300)
def test_the_demo_shows_and_proves_and_removes(lab_name):
    done = run(lab_name, "--quick", timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout
    assert "\x1b" not in done.stdout
    for word in ("kernel", "tunnel", "passthrough", "ns/shop/sa/client", "port 15008", "Gb/s"):
        assert word in done.stdout
    assert "denied shop/client -> shop/web-2: policy-deny" in done.stdout
    assert "AuthorizationPolicy shop/not-the-client rules[0].from[0] (mesh.yaml:" in done.stdout
    assert "the same request is answered again" in done.stdout
    assert re.search(r"requests over 64 connections +[\d,.]+ /s +[\d,.]+ /s", done.stdout)
    assert leftovers(lab_name) == []


@pytest.mark.timeout(300)
def test_it_can_be_kept_looked_into_and_removed(lab_name):
    try:
        kept = run(lab_name, "--keep", "--no-figures", timeout=200)
        assert kept.returncode == 0, kept.stdout + kept.stderr
        commands = [line.strip() for line in kept.stdout.splitlines() if line.startswith("    ")]
        looking = [
            text
            for text in commands
            if re.search(r" (status|connections|certificates|lab exec) |^bpftool|^ip netns", text)
        ]
        assert len(looking) == 6, looking
        for text in looking:
            done = subprocess.run(
                text, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
            )
            assert done.returncode == 0, text + done.stderr
            assert done.stdout.strip(), text
        # A second run takes the place of a lab that nobody is using.
        again = run(lab_name, "--no-figures", timeout=200)
        assert again.returncode == 0, again.stdout + again.stderr
        assert leftovers(lab_name) == []
    finally:
        subprocess.run(
            [sys.executable, "-m", "lab", "down", "--name", lab_name], cwd=ROOT, check=True
        )


@pytest.mark.parametrize(
    ("when", "what"),
    [
        ("links, cgroups", signal.SIGINT),
        ("servers:", signal.SIGTERM),
        ("certificate authority", signal.SIGINT),
        ("kinds of traffic", signal.SIGINT),
    ],
)
def test_interrupted_it_removes_everything(lab_name, when, what):
    with subprocess.Popen(
        command(lab_name, "--no-figures"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        # A shell's background job, as which CI may run this, ignores Ctrl-C and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as child:
        said = ""
        for line in child.stdout:
            said += line
            if when in line:
                break
        time.sleep(0.05)
        child.send_signal(what)
        rest, _ = child.communicate(timeout=60)
    assert child.returncode == 130, said + rest
    assert "Traceback" not in said + rest
    assert leftovers(lab_name) == []


def test_without_root_it_says_so_in_one_sentence():
    # Imported first: a checkout below /root cannot be read by anyone else.
    code = (
        "import os, sys, cli.main, cli.demo, lab.demo; os.setuid(65534); "
        "sys.exit(cli.main.main(['demo', '--name', 'nmt-x']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "root" in done.stderr
    assert not lab_dir("nmt-x").exists()


def test_a_missing_program_is_named_with_its_package(tmp_path):
    # Not one that lies in sbin: there it is looked for whatever PATH says.
    for program in ("ip", "nsenter", "ss", "nginx"):
        (tmp_path / program).symlink_to("/bin/true")
    done = run("nmt-x", env=os.environ | {"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "apt-get install curl" in done.stderr
    assert "Traceback" not in done.stderr
