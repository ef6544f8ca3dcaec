"""What a run records of its surroundings."""

import subprocess

from fkd.training.environment import find_commit


def test_the_commit_is_that_of_the_code_not_of_a_repository_around_it(tmp_path):
    """A virtual environment often lies in the repository of something else."""

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)

    tracked, installed = tmp_path / "mine.py", tmp_path / "venv" / "theirs.py"
    installed.parent.mkdir()
    tracked.touch()
    installed.touch()
    assert find_commit(str(tracked)) is None
    git("init", "-q")
    git("add", "mine.py")
    git("commit", "-q", "-m", "mine")
    assert len(find_commit(str(tracked))) == 40
    assert find_commit(str(installed)) is None
