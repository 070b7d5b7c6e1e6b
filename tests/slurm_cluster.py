"""A real SLURM cluster on the loopback address; this machine is both of its nodes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "munged", "pgrep")
TIMEOUT = 180  # seconds until a test gives up waiting

# Two fake GPUs per node for SLURM to count; two partitions, one preempting the other.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 Gres=gpu:2 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 State=UP
PartitionName=high Nodes=ALL PriorityTier=2 State=UP
"""
GPUS = "NodeName=n[1-2] Name=gpu File=/dev/null\nNodeName=n[1-2] Name=gpu File=/dev/zero\n"


def wait_until(condition: Callable[[], object], what: Callable[[], str]) -> None:
    """Waits for a condition. Fails with the text of `what` after a timeout."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > end:
            pytest.fail(what())
        time.sleep(0.1)


class Job:
    """A job, or a task of an array ("12_0"), with its files."""

    def __init__(self, name: str, folder: Path, command: Callable[..., str]):
        self.name, self.folder, self.command = name, folder, command

    def shown(self) -> str:
        """SLURM's description of the job, one line of KEY=VALUE."""
        return self.command("scontrol", "--oneliner", "show", "job", self.name)

    def task(self, number: int) -> Job:
        return Job(f"{self.name}_{number}", self.folder, self.command)

    @property
    def status(self) -> int:
        return int(re.search(r" ExitCode=(\d+):", self.shown())[1])

    @property
    def log(self) -> str:
        number, name = re.match(r"JobId=(\d+) .*JobName=(\S+)", self.shown()).groups()
        file = self.folder / f"{name}-{number}.log"
        return file.read_text(errors="replace") if file.is_file() else ""

    def wait(self, state: str, restarts: int = 0) -> None:
        """Waits until the job is in this state after `restarts` restarts. Fails if it ends in another state."""

        def arrived() -> bool:
            text = self.shown()
            there = re.search(rf" JobState={state} .* Restarts={restarts} ", text) is not None
            if not there and re.search(r" JobState=(COMPLETED|FAILED|CANCELLED|TIMEOUT|PREEMPTED|NODE_FAIL) ", text):
                pytest.fail(f"not {state} after {restarts} restarts: {text}\n{self.log}")
            return there

        wait_until(arrived, lambda: f"not {state} after {restarts} restarts: {self.shown()}\n{self.log}")

    def wait_for_requeue(self, restarts: int) -> None:
        """Waits until the job is queued again after `restarts` restarts, and moves its start forward.

        By default SLURM waits two minutes. It refuses a start within the second in which the job ended.
        """
        self.wait("PENDING", restarts)
        self.command("scontrol", "update", f"JobId={self.name}", "StartTime=now+2")

    def wait_for_file(self, pattern: str, after: float = 0.0) -> float:
        """Waits for a file of this name that is newer than `after`. Returns its time."""

        def newest() -> float:
            return max((path.stat().st_mtime for path in self.folder.glob(pattern)), default=0.0)

        wait_until(lambda: newest() > after, lambda: f"no new {pattern} of job {self.name}:\n{self.log}")
        return newest()


class Cluster:
    """The cluster's daemons. All their files are in `folder`."""

    def __init__(self, folder: Path):
        self.folder, self.daemons = folder, []
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        """Starts the daemons. Raises OSError if one of them fails to start."""
        user, host = self.run("id", "-un").strip(), socket.gethostname().partition(".")[0]
        with contextlib.ExitStack() as taken:
            sockets = [taken.enter_context(socket.socket()) for _ in range(3)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            ports = [each.getsockname()[1] for each in sockets]
        for name in ("state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir()
        text = CONFIGURATION.format(user=user, host=host, ports=ports, folder=self.folder)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(GPUS)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        munge = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        files = [f"--{option}={self.folder}/munge.{end}" for option, end in munge.items()]
        self.daemon("munged", "--force", "--foreground", *files)
        self.wait("munged", (self.folder / "munge.socket").exists)
        self.daemon("slurmctld", "-D")
        for node in ("n1", "n2"):
            self.daemon("slurmd", "-D", "-N", node)
        self.wait("slurmd", lambda: self.run("sinfo", "-h", "-N", "-p", "low", "-o", "%t").split() == ["idle", "idle"])

    def wait(self, newest: str, condition: Callable[[], object]) -> None:
        """Waits for a condition. Raises OSError with the last log line of a daemon that has stopped, or after 30 s of
        the newest one."""
        end = time.monotonic() + 30
        while not condition():
            name = next((name for name, process in self.daemons if process.poll() is not None), None)
            if name or time.monotonic() > end:
                lines = (self.folder / f"{name or newest}.log").read_text(errors="replace").splitlines()
                raise OSError(f"{name or newest} does not work: {lines[-1] if lines else 'it says nothing'}")
            time.sleep(0.05)

    def daemon(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [shutil.which(name, path=SEARCH), *words]
            self.daemons.append((name, subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)))

    def run(self, *words: str, **more) -> str:
        """The output and errors of a command, even if it fails."""
        done = subprocess.run(words, env=self.environment, text=True, stdout=-1, stderr=-2, check=False, **more)
        return done.stdout

    def stop(self) -> None:
        self.run("scancel", "--state=PENDING", f"--user={os.getuid()}")
        self.run("scancel", "--signal=KILL", "--full", f"--user={os.getuid()}")
        end = time.monotonic() + 20
        while re.match(r" *\d", self.run("squeue", "-h")) and time.monotonic() < end:
            time.sleep(0.1)
        for _, process in reversed(self.daemons):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    missing = [name for name in PROGRAMS if shutil.which(name, path=SEARCH) is None]
    if missing:
        pytest.skip(f"no SLURM here ({', '.join(missing)} not found; Debian's slurm-wlm and munge have them)")
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        try:
            cluster.start()
        except OSError as error:
            pytest.skip(f"SLURM is installed, but cannot be started here: {error}")
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def sbatch(cluster, tmp_path) -> Callable[..., Job]:
    """sbatch("--time=5", "slurm/train.sbatch", ...) submits a job and returns it.

    It submits from a folder with links to main.py and slurm/, so that jobs write nothing into the repository.
    """
    folder = tmp_path / "suite"
    folder.mkdir()
    for name in ("main.py", "slurm"):
        (folder / name).symlink_to(ROOT / name)

    def submit(*words: str) -> Job:
        environment = {**cluster.environment, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            ["sbatch", "--parsable", *words], cwd=folder, env=environment, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return Job(done.stdout.strip(), folder, cluster.run)

    submit.folder = folder
    return submit
