#!/bin/sh
# What each source of music is worth: the same network, trained for the same number of steps on more and more of ./music, judged on
# real songs. Prints the results of each row of the table in README.md. Needs music.sh and the first stage (vae.yaml).
set -e
steps=600
stems=${1:-../shared/real_stems/test}
row() { # NAME TRAIN_DATA [OVERRIDE...]
  name=$1 data=$2
  shift 2
  python train_musicldm.py --config config/quickstart/train.yaml id.name="variety_$name" data.params.path.train_data="[$data]" \
    trainer.max_steps=$steps trainer.validation_every_n_steps=$steps trainer.limit_val_batches=1 \
    model.params.lr_decay_steps=$steps "$@"
  python -m benchmarks.separation --model "$(ls -d runs/quickstart/*_variety_"$name"_*/checkpoints/last.ckpt | tail -n 1)" \
    --stems "$stems" --variant sampler=mean --exponents 0.7 --rounds 0 --seconds 30 --no-vocoder | sed "s/^/$name: /"
}
composed=music/composed/train
mma=music/mma1/train
freedoom=music/freedoom1/train
row composed $composed
row mma $mma
row freedoom $freedoom
row three $composed,$mma,$freedoom
row all $composed,$mma,music/mma0/train,$freedoom,music/freedoom2/train,music/freedoom3/train
row all_unmixed $composed,$mma,music/mma0/train,$freedoom,music/freedoom2/train,music/freedoom3/train \
  data.params.augmentation.remix=0
row all_remixed $composed,$mma,music/mma0/train,$freedoom,music/freedoom2/train,music/freedoom3/train \
  data.params.augmentation.remix=0.7 data.params.augmentation.mute=0.15
