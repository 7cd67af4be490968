// What this CPU can do and this OS lets it do, asked of both.
#pragma once

#include <string>
#include <vector>

namespace whisperq {

struct CpuFeature {
    const char* name;  // the word used in _build.json, `whisperq-edge info` and the docs
    bool found;
};

// Every feature that we know for this family of CPUs, in a fixed order.
// x86-64: CPUID, and XGETBV for the register state that the OS saves. ARM: AT_HWCAP/AT_HWCAP2 or, on macOS, sysctl.
//
// They are detected once, because a hypervisor traps every CPUID.
const std::vector<CpuFeature>& cpu_features();

// The CPU's own name for people, e.g. "Intel(R) Xeon(R) ...", or "" where none can be had.
std::string cpu_name();

// "x86_64", "aarch64" or "other".
const char* cpu_family();

}  // namespace whisperq
