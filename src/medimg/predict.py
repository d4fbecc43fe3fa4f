"""`python -m medimg.predict --spec … --data … --inputs … --out … --checkpoints …`: predicts a pack as a job."""

from medimg.inference.batch import main

if __name__ == "__main__":
    raise SystemExit(main())
