"""How rankers are evaluated: metrics, slices as of the row, and one evaluator with intervals over users."""
