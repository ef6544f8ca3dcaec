"""Which of several processes of a run prints an error that all of them have.

Under torchrun every process reads the same command line, so each finds the same mistake in it. The
processes agree over the key-value store that torchrun keeps for them: the first one that has a
message prints it.
"""

import hashlib
import os
from datetime import timedelta

_PATIENCE = timedelta(seconds=2)


def is_first_to_say(message: str) -> bool:
    """Whether no other process of this run has printed the message; claims it.

    True without torchrun, and where its store does not answer: an error that is printed twice is
    better than one that is not.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    import torch.distributed as dist  # takes seconds, which a single process need not wait

    digest = hashlib.sha256(message.encode()).hexdigest()
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(host, port, is_master=False, timeout=_PATIENCE)  # type: ignore[attr-defined]
        return bool(store.add(f"fkd/{restart}/{digest}", 1) == 1)
    except (KeyError, ValueError, RuntimeError):
        return True
