//% if vocabulary == "avx512_bf16"
//% include "lib/cpp/avx512_bf16.h"
//% elif vocabulary == "avx512"
//% include "lib/cpp/avx512.h"
//% elif vocabulary == "avx2"
//% include "lib/cpp/avx2.h"
//% else
//% include "lib/cpp/generic.h"
//% endif
