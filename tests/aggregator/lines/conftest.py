from tests.aggregator.lines.lines_stage import stage

__all__ = ["stage"]
