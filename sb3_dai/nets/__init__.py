"""Building blocks of the nets: ensembles of perceptrons, running statistics, features extractors."""
