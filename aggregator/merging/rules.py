"""The merging rules by name."""

from collections.abc import Mapping

from aggregator.merging.fedbuff import FEDBUFF
from aggregator.merging.rule import Rule

RULES: Mapping[str, Rule] = {rule.name: rule for rule in (FEDBUFF,)}
