"""Compiler options of tests whose programs have to be those of users.

tests/conftest.py switches optimisation off. Two programs that compute the same then
round differently here and there, where optimised ones agree to the bit.
"""

OPTIMISED = {
    "xla_backend_optimization_level": 3,
    "xla_cpu_use_fusion_emitters": True,
}
