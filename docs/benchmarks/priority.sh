#!/bin/sh
# The demo with other seeds (splits, noise and training) and shares of flipped labels, for docs/benchmarks/priority.py.
# From the checkout's root: sh docs/benchmarks/priority.sh; runs go to runs/priority-SHARE-SEED.
set -eu
for seed in 1 2 3 4; do
    for share in 0.05 0.1 0.3; do
        auditor run docs/examples/digits.yaml --run "runs/priority-$share-$seed" --set seed="$seed" \
            --set data.label_noise="$share" --set verify.during_run=false --set mlflow.experiment=priority
    done
done
