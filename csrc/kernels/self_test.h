// The self-test of the kernels on this very CPU: known answers, in a few milliseconds.
//
// tests/cpp/check_kernels proves kernels on the machines that build them. The self-test runs on the machines that use
// them, at first use: on CPUs, hypervisors, emulators and compilers that nobody has tested. Every entry of a table
// computes small inputs of odd sizes, in every format, cache type and ending. The answers are those of the contracts
// (kernels.h, pack.h) in double precision. They share no code with the kernels. Inputs of quantisers have known codes.
// A handful of answers is written down in digits (self_test/). They also show a compiler that is wrong in the same way
// twice.
#pragma once

#include "core/findings.h"
#include "kernels/kernels.h"

namespace whisperq::kernels {

void self_test(const KernelTable& table, Findings& findings);

}  // namespace whisperq::kernels
