#!/bin/sh
# Makes the music that the quickstart model was trained and judged on, in ./music.
# Needs Debian's packages, as root:
#   apt-get install --no-install-recommends freedoom mma timgm6mb-soundfont fluid-soundfont-gm \
#     musescore-general-soundfont-lossless opl3-soundfont csound-soundfont
set -e
sf2=/usr/share/sounds/sf2
fonts="$sf2/TimGM6mb.sf2 $sf2/FluidR3_GM.sf2 $sf2/MuseScore_General_Full.sf2 $sf2/OPL-3_FM_128M.sf2"
unheard=$sf2/sf_GMbank.sf2 # a SoundFont that is kept out of training
vary="--min-stems 3 --programs random --transpose random --tempo random --workers 1"

# Songs by people: every sixth is kept out of training. The others are rendered three times, each time with other
# SoundFonts, programs, keys and tempi.
python -m data.freedoom --out midi/freedoom
mkdir -p midi/freedoom_train midi/freedoom_test
number=0
for file in $(find midi/freedoom -name '*.mid' | sort); do
  number=$((number + 1))
  if [ $((number % 6)) = 0 ]; then cp "$file" midi/freedoom_test; else cp "$file" midi/freedoom_train; fi
done
for seed in 1 2 3; do
  python -m data.render_midi --midi midi/freedoom_train --out music/freedoom$seed --soundfont $fonts $vary --seed $seed
done

# Arrangements by MMA: twelve songs are kept out of training, and with them every song that shares one of their styles.
python -m data.mma --out midi/mma --songs 110 --seed 2 --seconds 40 90
mkdir -p midi/mma_train midi/mma_test
styles='16beatballad2|8beat2|8beatdance|bigband|broadway|bvfunk|evansish|house|jazzbossa|jazzrock|poppolka|popspiritual'
styles="$styles|salsa|slowswing|western"
for file in midi/mma/*.mma; do
  song=${file%.mma}
  case ${song##*-} in
    00002 | 00009 | 00017 | 00031 | 00048 | 00061 | 00070 | 00075 | 00076 | 00078 | 00081 | 00105) cp "$song".mid midi/mma_test ;;
    *) grep -qE "^Groove [^:]*/($styles):" "$file" || cp "$song".mid midi/mma_train ;;
  esac
done
python -m data.render_midi --midi midi/mma_train --out music/mma1 --soundfont $fonts $vary --seed 1

# Longer arrangements, none of them in the held-out styles.
python -m data.mma --out midi/mma0 --songs 30 --seed 1 --seconds 60 150
for file in midi/mma0/*.mma; do
  if grep -qE "^Groove [^:]*/($styles):" "$file"; then rm "$file" "${file%.mma}.mid"; fi
done
python -m data.render_midi --midi midi/mma0 --out music/mma0 --soundfont $fonts $vary --seed 1

# Our own composer.
python -m data.synthetic --out music/composed --tracks 60 --seed 11 --seconds 50 80 --workers 1

# What is judged on: songs, styles and a SoundFont that no training heard.
for songs in freedoom mma; do
  python -m data.render_midi --midi midi/${songs}_test --out music/${songs}_test --split test --soundfont $unheard \
    --min-stems 3 --programs random --workers 1 --seed 7
done
