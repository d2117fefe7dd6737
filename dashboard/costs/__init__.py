"""The page of tasks and cost: what completed tasks cost, and where the money of the others went."""
