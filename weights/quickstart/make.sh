#!/bin/sh
# Makes the shipped model, from packages to weights/quickstart/model.safetensors: `make quickstart-model`.
#
#   DEVICE=cuda    where to train; cpu takes a thousand times as long for the same number of windows
#   MINUTES=9      of training
#   RENDERERS=14   processes that render songs meanwhile
#   WORK=work      folder for all that is made on the way; MIDI files that lie there are kept
#
# Needs Debian's packages, as root:
#   apt-get install --no-install-recommends freedoom mma simutrans-data fluid-soundfont-gm avldrums.lv2-soundfont \
#     musescore-general-soundfont-lossless opl3-soundfont timgm6mb-soundfont
# and the SoundFonts of recorded notes that data/README.md makes, in $WORK/fonts.
set -e
PYTHON=${PYTHON:-python}
WORK=${WORK:-work}
DEVICE=${DEVICE:-cuda}
sf2=/usr/share/sounds/sf2

# Arrangements by MMA. Held out: twelve songs, and every song that shares a style with one of them.
mkdir -p "$WORK/midi/mma_train" "$WORK/midi/people"
[ -e "$WORK/midi/mma/song-02600.mid" ] || $PYTHON -m data.mma --out "$WORK/midi/mma" --songs 2600 --seed 2 --seconds 40 90
styles='16beatballad2|8beat2|8beatdance|bigband|broadway|bvfunk|evansish|house|jazzbossa|jazzrock|poppolka|popspiritual'
styles="$styles|salsa|slowswing|western"
for chart in "$WORK"/midi/mma/*.mma; do
  case ${chart%.mma} in
    *-00002 | *-00009 | *-00017 | *-00031 | *-00048 | *-00061 | *-00070 | *-00075 | *-00076 | *-00078 | *-00081 | *-00105) ;;
    *) grep -qE "^Groove [^:]*/($styles):" "$chart" || cp "${chart%.mma}.mid" "$WORK/midi/mma_train" ;;
  esac
done
# Songs by people: Freedoom's, every sixth held out, and Simutrans'.
$PYTHON -m data.freedoom --out "$WORK/midi/freedoom"
number=0
for file in $(find "$WORK/midi/freedoom" -name '*.mid' | sort); do
  number=$((number + 1))
  [ $((number % 6)) = 0 ] || cp "$file" "$WORK/midi/people"
done
cp /usr/share/games/simutrans/music/*.mid "$WORK/midi/people"

for seed in $(seq 1 "${RENDERERS:-14}"); do
  OMP_NUM_THREADS=1 nice $PYTHON -m data.endless --out "$WORK/songs" --seed "$seed" --ahead 500 --composed 0.45 \
    --midi "$WORK/midi/mma_train" "$WORK/midi/people" \
    --soundfont $sf2/FluidR3_GM.sf2 $sf2/MuseScore_General_Full.sf2 $sf2/OPL-3_FM_128M.sf2 $sf2/TimGM6mb.sf2 \
    drums=$sf2/Black_Pearl_4_LV2.sf2 drums=$sf2/Red_Zeppelin_4_LV2.sf2 \
    bass="$WORK/fonts/bass-electric.sf2" bass="$WORK/fonts/contrabass.sf2" piano="$WORK/fonts/salamander.sf2" \
    guitar="$WORK/fonts/guitar-acoustic.sf2" guitar="$WORK/fonts/guitar-electric.sf2" > "$WORK/render$seed.log" 2>&1 &
done
trap 'kill $(jobs -p) 2> /dev/null' EXIT
[ "$DEVICE" = cpu ] && small="--batch 16 --fresh 2 --ring 768 --hours 3" || small=--compile
$PYTHON -m weights.quickstart.pretrain --songs "$WORK/songs" --device "$DEVICE" --bf16 --minutes "${MINUTES:-9}" $small \
  --out "$WORK/pretrained" --model weights/quickstart/model.safetensors
