"""Compiler options of tests whose programs have to be those of users.

tests/conftest.py switches optimisation off. Two programs that compute the same then
round differently here and there, where optimised ones agree to the bit.
"""

import jaxlib

OPTIMISED: dict[str, int | bool] = {"xla_backend_optimization_level": 3}
if jaxlib.__version__.startswith("0.10."):
    OPTIMISED["xla_cpu_use_fusion_emitters"] = True
