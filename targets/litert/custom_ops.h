// For apps: call this on the options that a compiled model is made from, and ask for errors after every run.
#pragma once

#include "litert.h"

extern "C" {

// Makes the custom ops of edgecomp known. Returns LiteRT's status, 0 if all is well.
LiteRtStatus edgecomp_add_litert_ops(LiteRtOptions options);

// What went wrong in a custom op of this thread since the last call, or "": LiteRT ignores the failure of one.
const char *edgecomp_take_litert_error(void);
}
