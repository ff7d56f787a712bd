"""The launchers under the names that Hydra asks for: it takes plugins from `hydra_plugins` alone.

Hydra imports this at every start, so it imports no torch and no submitit.
"""

from rlhf.launch import local, slurm


class SlurmLauncher(slurm.SlurmLauncher):
    """`hydra/launcher=slurm`."""


class LocalLauncher(local.LocalLauncher):
    """`hydra/launcher=local`."""
