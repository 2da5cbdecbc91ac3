"""The checker of shapes and types in the tests: an int may stand for a float, as for every other type checker."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
