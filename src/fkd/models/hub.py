"""Published weights without a network: what was downloaded earlier, or an answer within seconds.

By itself the client of the hub tries again and again, for three quarters of a minute, even where
the weights lie in its cache.
"""

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from huggingface_hub import constants

_SECONDS = 3.0


@contextmanager
def quick_answers(seconds: float = _SECONDS) -> Iterator[None]:
    """Within it, models are taken from the cache of the hub if the hub does not answer in time.

    Args:
        seconds: for the hub to answer one request; downloads may take as long as they need.

    Raises:
        ConnectionError: the hub does not answer, and what was wanted is not in the cache.
    """
    if constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT, seconds):
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    except OSError as error:
        raise ConnectionError(
            f"{constants.ENDPOINT} does not answer, and they are not in its cache"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = False


def _answers(url: str, seconds: float) -> bool:
    """Whether a server says anything, be it that it refuses; names are looked up in time, too."""
    answers: list[bool] = []
    request = urllib.request.Request(url, method="HEAD")

    def ask() -> None:
        try:
            with urllib.request.urlopen(request, timeout=seconds):
                answers.append(True)
        except urllib.error.HTTPError as error:
            error.close()
            answers.append(True)
        except (OSError, ValueError):
            answers.append(False)

    asking = Thread(target=ask, daemon=True)  # looking up a name cannot be given a time limit
    asking.start()
    asking.join(seconds)
    return answers == [True]
