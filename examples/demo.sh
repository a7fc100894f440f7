#!/bin/sh
# The whole of headstart on drawn cats and dogs: sh examples/demo.sh DIR
set -eu
dir=$1
weights=${WEIGHTS:-${HEADSTART_WEIGHTS:-}}
case $weights in "" | imagenet) weights=$(python -m headstart.pipeline.data.demo_weights) ;; esac

step() {
    echo
    echo "\$ $*"
    "$@"
}

[ -e "$dir/drawn/dog/broken.tail.jpg" ] || step headstart demo "$dir/drawn"
step headstart prepare "$dir/drawn" "$dir/data"
step headstart features "$dir/data" --store "$dir/store" --weights "$weights"
step headstart head "$dir/data" --run "$dir/run" --store "$dir/store" --weights "$weights" --overwrite
step headstart finetune "$dir/run" --epochs 1 --overwrite
step headstart evaluate "$dir/run"
step headstart predict "$dir/run" "$dir/drawn/cat/cat.0.jpg" "$dir/drawn/dog/dog.0.jpg"
