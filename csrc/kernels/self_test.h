// Whether kernels compute what they should on this very CPU: known answers, in a few milliseconds.
//
// tests/cpp/check_kernels proves kernels on the machines of whoever builds them. This runs where they are used, at
// first use, for what nobody has tested: another CPU, another hypervisor, an emulator, another compiler. Every entry of
// a table computes small inputs of odd sizes, in every format, cache type and ending. The answers are those of the
// contracts (kernels.h, pack.h) in double precision, by nothing that the kernels share; inputs of quantisers lie so
// that their codes are known. A handful of answers is written down in digits (self_test/), so that a compiler that
// is wrong in the same way twice is noticed too.
#pragma once

#include "core/findings.h"
#include "kernels/kernels.h"

namespace whisperq::kernels {

void self_test(const KernelTable& table, Findings& findings);

}  // namespace whisperq::kernels
