"""How rankers are judged: metrics, slices as of the row, bootstrap over users."""
