"""
The equations of deep active inference, as pure functions of tensors.

Sign convention: the expected free energy (EFE) ``G`` is a cost, lower is better. A scalar per sample has shape ``(batch, 1)``.
Axes of ensembles and critics come first: ``(n_members, batch, ...)``.

References: van der Himst & Lanillos 2020 (arXiv:2009.03622), Millidge 2019 (arXiv:1907.03876), Tschantz et al. 2020
(arXiv:2002.12636), Haarnoja et al. 2018 (arXiv:1801.01290), Zhou et al. 2022 (arXiv:2209.10081).
"""
