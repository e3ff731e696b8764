"""What a network costs: parameters, multiply-adds, activation bytes; and its latency, measured or predicted."""

from enas.costs.counting import Costs, OperationCounter, multiply_adds, on_meta, parameter_count

__all__ = ["Costs", "OperationCounter", "multiply_adds", "on_meta", "parameter_count"]
