"""The operations themselves: each looks at metadata alone, reports all that is wrong at once, and returns a Plan."""
