"""Looks after one process: `python keeper.py FOLDER`, which imports nothing of the backend and starts at once.

It is told by files and tells by files: `plan.json` says what to run, `stop` asks to end it, `change` asks for SIGHUP,
`log` takes what it prints, `end.json` says how it ended. The lock on `alive` was taken by whoever started the keeper
and is held until it is gone.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

GRACE_SECONDS = 30


def main() -> None:
    """Runs the plan to its end, to its deadline, or until it is told to stop."""
    folder = Path(sys.argv[1])
    plan = json.loads((folder / "plan.json").read_text())
    with (folder / "log").open("ab", buffering=0) as log:
        process = subprocess.Popen(plan["command"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
    why, kill_at = "", float("inf")
    while process.poll() is None:
        # A folder that was taken away cannot be asked; nobody wants its process any more.
        if not why and ((folder / "stop").exists() or not folder.exists() or time.time() > plan["deadline"]):
            why = "late" if folder.exists() and not (folder / "stop").exists() else "stopped"
            process.terminate()
            kill_at = time.time() + GRACE_SECONDS
        elif time.time() > kill_at:
            process.kill()
        elif (folder / "change").exists():
            (folder / "change").unlink()
            process.send_signal(signal.SIGHUP)
        time.sleep(0.05)
    if why == "late" and plan["temporary"]:
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        (folder / "end.part").write_text(json.dumps({"code": process.returncode, "why": why}))
        (folder / "end.part").rename(folder / "end.json")


if __name__ == "__main__":
    main()
