"""The only home of Ray: training on many workers, scoring over many actors."""
