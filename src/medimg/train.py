"""`python -m medimg.train --spec … --data … --inputs … --out … --checkpoints …`: the one command of every backend."""

from medimg.training.main import main

if __name__ == "__main__":
    raise SystemExit(main())
