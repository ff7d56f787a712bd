"""A real SLURM of two nodes on one Debian machine, as root: `python -m tests.slurm.cluster up DIR` and `... down DIR`.

All of it lies in DIR but for the names of the nodes, which are put into /etc/hosts and taken out again. A node has 8
cores, 16 GB and 2 GPUs, whatever the machine has. Jobs in the partition `low` are preempted and requeued by those in
`high`. There is no accounting database, as on many a small cluster.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
NODES = ("node1", "node2")
GPUS = 2
ADDRESS = "127.0.0.1"
HOSTS = Path("/etc/hosts")

SLURM_CONF = """\
ClusterName=rlhf
SlurmctldHost={host}({address})
SlurmctldPort=16817
SlurmUser=root
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
ReturnToService=2
GresTypes=gpu
NodeName=DEFAULT CPUs=8 RealMemory=16000 Gres=gpu:a100:{gpus}
{nodes}
PartitionName=DEFAULT Nodes=ALL DefMemPerCPU=100 MaxTime=INFINITE
PartitionName=low Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=high PriorityTier=10 PreemptMode=OFF
"""


class Cluster:
    """`up` and `down` may both be called in any state. `environment` is what SLURM's commands need to find it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.munge = self.folder / "munge"
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def up(self) -> None:
        """Install SLURM where it is missing, write its configuration, start its daemons, wait for its nodes."""
        install()
        self.down()
        self._configure()
        name_hosts()
        (self.munge / "key").unlink(missing_ok=True)
        (self.munge / "key").write_bytes(os.urandom(128))
        (self.munge / "key").chmod(0o400)
        places = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._start("munged", *(f"--{option}={self.munge / name}" for option, name in places.items()))
        self._start("slurmctld")
        for node in NODES:
            self._start("slurmd", "-N", node)
        until(self._is_up, 30, f"the cluster is not up; see {self.folder}/*.log")

    def down(self) -> None:
        """End all jobs and daemons, and forget the nodes' names."""
        if (self.folder / "slurm.conf").exists():
            self.clear()
        daemons = (*self.folder.glob("slurmd-*.pid"), self.folder / "slurmctld.pid", self.munge / "pid")
        for file in daemons:
            stop(file)
        unname_hosts()

    def clear(self) -> None:
        """End all jobs."""
        for partition in ("low", "high"):
            self.run("scancel", f"--partition={partition}", check=False)
        try:
            until(lambda: not self.run("squeue", "--noheader", check=False), 20, "jobs do not end")
        except TimeoutError as error:
            print(error, file=sys.stderr)

    def job(self, job_id: str) -> dict[str, str]:
        """What SLURM knows of a job."""
        words = self.run("scontrol", "--oneliner", "show", "job", job_id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def run(self, *command: str, check: bool = True) -> str:
        """A command of SLURM's; returns what it prints."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def _configure(self) -> None:
        for name in ("state", "munge"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        for number in range(GPUS):  # to SLURM a GPU is a device file; these are copies of /dev/null
            device = self.folder / f"gpu{number}"
            if not device.exists():
                os.mknod(device, 0o20666, os.makedev(1, 3))
        host = socket.gethostname().partition(".")[0]
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr={ADDRESS} Port={17000 + number}"
            for number, node in enumerate(NODES, start=1)
        )
        text = SLURM_CONF.format(host=host, address=ADDRESS, folder=self.folder, gpus=GPUS, nodes=nodes)
        (self.folder / "slurm.conf").write_text(text)
        gres = f"AutoDetect=off\nName=gpu Type=a100 File={self.folder}/gpu[0-{GPUS - 1}]\n"
        (self.folder / "gres.conf").write_text(gres)

    def _start(self, program: str, *arguments: str) -> None:
        """A daemon, which goes to the background by itself and says in a file of its own which process it is."""
        path = f"{os.environ['PATH']}:/usr/sbin"
        environment = os.environ | self.environment | {"PATH": path}
        subprocess.run([str(shutil.which(program, path=path)), *arguments], env=environment, check=True, timeout=30)

    def _is_up(self) -> bool:
        states = self.run(
            "sinfo", "--noheader", "--Node", "--partition=low", "--states=idle", "--format=%N", check=False
        )
        return len(states.split()) == len(NODES)


def install() -> None:
    known = subprocess.run(["dpkg", "--status", *PACKAGES], capture_output=True, check=False)
    if known.returncode != 0:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
            subprocess.run(["apt-get", "--quiet", "--quiet", *command], env=environment, check=True)


def hosts_line() -> str:
    """First in /etc/hosts: daemons listen on this machine alone, and jobs find each other by their nodes' names."""
    return f"{ADDRESS} {socket.gethostname()} {' '.join(NODES)} # tests/slurm/cluster.py\n"


def name_hosts() -> None:
    unname_hosts()
    HOSTS.write_text(hosts_line() + HOSTS.read_text())


def unname_hosts() -> None:
    text = HOSTS.read_text()
    if hosts_line() in text:
        HOSTS.write_text(text.replace(hosts_line(), ""))  # in its place: in a container the file itself is mounted


def stop(file: Path) -> None:
    """End the daemon of a pid file, if it is still that daemon."""
    try:
        process = int(file.read_text())
        os.kill(process, signal.SIGTERM)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return
    until(lambda: not runs(process), 20, f"process {process} of {file} does not end")
    file.unlink(missing_ok=True)


def runs(process: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(holds: Callable[[], bool], seconds: float, message: str) -> None:
    """Wait until it holds; raises TimeoutError with the message."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(message)
        time.sleep(0.1)


if __name__ == "__main__":
    getattr(Cluster(Path(sys.argv[2])), {"up": "up", "down": "down"}[sys.argv[1]])()
