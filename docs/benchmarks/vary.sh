#!/bin/sh
# The demo with one thing changed at a time: how well predictions hold on other networks and recipes.
# From the checkout's root: sh docs/benchmarks/vary.sh [NAME...]; tables go to runs/vary-NAME.txt.
set -eu
vary() {
    name=$1
    shift
    case " $wanted " in *" $name "* | "  ") ;; *) return 0 ;; esac
    set -- docs/benchmarks/fidelity.yaml --run "runs/vary-$name" --set "score.methods=[replay, gif, loss]" \
        --set score.ablation=false --set verify.leave_one_out=12 --set verify.subsets=24 --set mlflow.experiment=vary "$@"
    auditor run "$@"
    auditor verify "$@" >"runs/vary-$name.txt"
}
wanted="$*"
# Without normalisation the recipe of the demo learns nothing; this one does.
vary no-norm --set model.args.norm=none --set train.optimizer.learning_rate=0.1 --set train.epochs=40
vary group-norm --set model.args.norm=group
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
