"""The order of the queue: nobody starves, shares follow the weights, caps and reserves hold, places stay."""
