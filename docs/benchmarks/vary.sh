#!/bin/sh
# The demo with one thing changed at a time: how well predictions hold on other networks and recipes.
# From the checkout's root: sh docs/benchmarks/vary.sh [NAME...]; tables go to runs/vary-NAME.txt.
set -eu
vary() {
    name=$1
    shift
    case " $wanted " in *" $name "* | "  ") ;; *) return 0 ;; esac
    set -- docs/benchmarks/fidelity.yaml --run "runs/vary-$name" --set "score.methods=[replay, hif_fast, gif, loss, aum]" \
        --set score.ablation=false --set verify.leave_one_out=24 --set verify.subsets=48 --set mlflow.experiment=vary "$@"
    auditor run "$@"
    auditor verify "$@" >"runs/vary-$name.txt"
}
wanted="$*"
vary relu --set model.args.activation=relu
vary rho-0 --set train.perturbation.rho=0
vary rho-0.1 --set train.perturbation.rho=0.1
vary rho-0.2 --set train.perturbation.rho=0.2
vary p-1.5 --set train.perturbation.p=1.5
vary p-3 --set train.perturbation.p=3
vary asam --set "train.perturbation={name: asam}"
vary gsam --set "train.perturbation={name: gsam}"
vary augmentation --set data.augmentation.crop_padding=1
vary rate-0.1 --set train.optimizer.learning_rate=0.1
vary epochs-40 --set train.epochs=40
# Without normalisation the recipe of the demo learns nothing; the first of these does, and so, more slowly, the second.
vary no-norm --set model.args.norm=none --set train.optimizer.learning_rate=0.1 --set train.epochs=40
vary no-norm-gentle --set model.args.norm=none --set train.optimizer.learning_rate=0.05 --set train.epochs=40 \
    --set train.optimizer.warmup_epochs=10
vary group-norm --set model.args.norm=group
vary group-norm-gentle --set model.args.norm=group --set train.optimizer.learning_rate=0.01 \
    --set train.optimizer.warmup_epochs=5 --set train.epochs=30 --set train.batch_size=256
# The same data trained from other seeds, the same random subsets left out: docs/benchmarks/seeds.py averages them.
for seed in 1 2 3 4; do
    vary "group-norm-seed-$seed" --set model.args.norm=group --set train.seed=$seed --set verify.leave_one_out=0 \
        --set "score.methods=[replay, gif, loss]"
done
