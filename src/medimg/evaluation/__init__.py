"""How good a model is: thresholds, metrics, figures and the report, all over tables keyed by sample id."""
