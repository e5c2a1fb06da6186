#!/bin/sh
# Removes from a virtual environment what no running image needs. Sizes in MB, of the versions in the locks.
set -eu
site=$(echo "$1"/lib/python3.*/site-packages)
cd "$site"

# Libraries' own tests, headers, and sources of what is compiled.
find . -depth -type d \( -name tests -o -name test -o -name testdata \) -exec rm -rf {} +
find . -type f \( -name '*.a' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.pyx' -o -name '*.h' -o -name '*.hpp' \
    -o -name '*.cc' -o -name '*.cpp' \) -delete
rm -rf pyarrow/include pyarrow/src "$1"/include

# Arrow's RPC (32): nobody speaks it here. Its module imports only when it is asked for.
rm -f pyarrow/libarrow_flight.so* pyarrow/libarrow_python_flight.so* pyarrow/_flight.*
# One library under three names, which a wheel cannot link (5).
if [ -d pyarrow ]; then
    for long in pyarrow/libarrow_python*.so.*.*.*; do
        [ -e "$long" ] || continue
        name=$(basename "$long")
        ln -sf "$name" "${long%.*.*}"
        ln -sf "$name" "${long%.so.*}.so"
    done
fi
# ONNX Runtime for programs in C (35), which the Python module has inside, and its model-conversion tools (10).
rm -rf onnxruntime/capi/libonnxruntime.so* onnxruntime/transformers onnxruntime/quantization onnxruntime/tools

# Where phone numbers are and whose (45): we only look whether something is one.
rm -rf phonenumbers/geodata phonenumbers/carrierdata phonenumbers/tzdata phonenumbers/geocoder.py \
    phonenumbers/carrier.py phonenumbers/timezone.py
# Downloads from a model hub (20): nothing is downloaded, and the tokenizers' own code is compiled into them.
rm -rf hf_xet hf_xet-* huggingface_hub huggingface_hub-*
# Types for editors (4).
find . -type f -name '*.pyi' -delete

# An interpreter was found to need none of these: each entry point is a `python -m`.
find "$1/bin" -type f ! -name 'activate*' -exec grep -lI '^#!' {} + | xargs -r rm -f
