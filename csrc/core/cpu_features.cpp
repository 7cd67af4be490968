#include "core/cpu_features.h"

#include <cstdint>
#include <cstring>
#include <fstream>

#if defined(__x86_64__) || defined(_M_X64)
#define WHISPERQ_X86 1
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif defined(__aarch64__)
#define WHISPERQ_ARM64 1
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#endif

namespace whisperq {
namespace {

#ifdef WHISPERQ_X86

struct Registers {
    uint32_t eax, ebx, ecx, edx;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
    Registers r{};
#if defined(_MSC_VER)
    int values[4];
    __cpuidex(values, static_cast<int>(leaf), static_cast<int>(subleaf));
    std::memcpy(&r, values, sizeof r);
#else
    __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
#endif
    return r;
}

// XCR0 says which register state the OS saves at a context switch; using more is an illegal instruction or worse.
uint64_t saved_register_state(bool os_uses_xsave) {
    if (!os_uses_xsave) return 0;
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<uint64_t>(high) << 32) | low;
#endif
}

constexpr uint64_t kSavesAvx = 0x6;      // SSE and the upper halves of YMM
constexpr uint64_t kSavesAvx512 = 0xe6;  // and the mask registers and ZMM
constexpr uint64_t kSavesAmx = 0x60000;  // tile configuration and data

enum class Register { eax, ebx, ecx, edx };

// A feature is one bit of CPUID plus the register state that it needs saved.
struct FeatureBit {
    const char* name;
    uint32_t leaf, subleaf;
    Register reg;
    int bit;
    uint64_t needs_saved;
};

constexpr FeatureBit kFeatureBits[] = {
    {"sse3", 1, 0, Register::ecx, 0, 0},
    {"ssse3", 1, 0, Register::ecx, 9, 0},
    {"sse4_1", 1, 0, Register::ecx, 19, 0},
    {"sse4_2", 1, 0, Register::ecx, 20, 0},
    {"popcnt", 1, 0, Register::ecx, 23, 0},
    {"movbe", 1, 0, Register::ecx, 22, 0},
    {"lzcnt", 0x80000001, 0, Register::ecx, 5, 0},
    {"bmi1", 7, 0, Register::ebx, 3, 0},
    {"bmi2", 7, 0, Register::ebx, 8, 0},
    {"avx", 1, 0, Register::ecx, 28, kSavesAvx},
    {"f16c", 1, 0, Register::ecx, 29, kSavesAvx},
    {"fma", 1, 0, Register::ecx, 12, kSavesAvx},
    {"avx2", 7, 0, Register::ebx, 5, kSavesAvx},
    {"avxvnni", 7, 1, Register::eax, 4, kSavesAvx},
    {"avx512f", 7, 0, Register::ebx, 16, kSavesAvx512},
    {"avx512dq", 7, 0, Register::ebx, 17, kSavesAvx512},
    {"avx512cd", 7, 0, Register::ebx, 28, kSavesAvx512},
    {"avx512bw", 7, 0, Register::ebx, 30, kSavesAvx512},
    {"avx512vl", 7, 0, Register::ebx, 31, kSavesAvx512},
    {"avx512vbmi", 7, 0, Register::ecx, 1, kSavesAvx512},
    {"avx512vnni", 7, 0, Register::ecx, 11, kSavesAvx512},
    {"avx512bf16", 7, 1, Register::eax, 5, kSavesAvx512},
    {"amx_tile", 7, 0, Register::edx, 24, kSavesAmx},
    {"amx_int8", 7, 0, Register::edx, 25, kSavesAmx},
};

uint32_t pick(const Registers& r, Register which) {
    switch (which) {
        case Register::eax:
            return r.eax;
        case Register::ebx:
            return r.ebx;
        case Register::ecx:
            return r.ecx;
        case Register::edx:
            return r.edx;
    }
    return 0;
}

// Leaves and subleaves above the highest one that the CPU has return another leaf's bits.
bool leaf_exists(const FeatureBit& feature) {
    const uint32_t highest = cpuid(feature.leaf & 0x80000000, 0).eax;
    if (feature.leaf > highest) return false;
    return feature.subleaf == 0 || feature.subleaf <= cpuid(feature.leaf, 0).eax;
}

std::vector<CpuFeature> detect() {
    const bool os_uses_xsave = (cpuid(1, 0).ecx >> 27) & 1;
    const uint64_t saved = saved_register_state(os_uses_xsave);
    std::vector<CpuFeature> features;
    for (const FeatureBit& f : kFeatureBits) {
        const bool in_cpu = leaf_exists(f) && ((pick(cpuid(f.leaf, f.subleaf), f.reg) >> f.bit) & 1);
        features.push_back({f.name, in_cpu && (saved & f.needs_saved) == f.needs_saved});
    }
    return features;
}

std::string detect_name() {
    if (cpuid(0x80000000, 0).eax < 0x80000004) return "";
    char name[49] = {};
    for (uint32_t i = 0; i < 3; ++i) {
        const Registers r = cpuid(0x80000002 + i, 0);
        std::memcpy(name + 16 * i, &r, sizeof r);
    }
    return name;
}

#elif defined(WHISPERQ_ARM64)

// Bits of the Linux kernel's arm64 hwcap ABI, by number because older headers lack the newer names.
struct FeatureBit {
    const char* name;
    int word;  // 1: AT_HWCAP, 2: AT_HWCAP2
    int bit;
    const char* sysctl;  // macOS
};

constexpr FeatureBit kFeatureBits[] = {
    {"neon", 1, 1, "hw.optional.AdvSIMD"},
    {"fp16", 1, 10, "hw.optional.arm.FEAT_FP16"},
    {"dotprod", 1, 20, "hw.optional.arm.FEAT_DotProd"},
    {"sve", 1, 22, ""},
    {"i8mm", 2, 13, "hw.optional.arm.FEAT_I8MM"},
    {"bf16", 2, 14, "hw.optional.arm.FEAT_BF16"},
    {"sve2", 2, 1, ""},
    {"sme", 2, 23, "hw.optional.arm.FEAT_SME"},
};

bool has_feature(const FeatureBit& f) {
#if defined(__linux__)
    const unsigned long word = getauxval(f.word == 1 ? AT_HWCAP : AT_HWCAP2);
    return (word >> f.bit) & 1;
#elif defined(__APPLE__)
    int value = 0;
    size_t size = sizeof value;
    return f.sysctl[0] != '\0' && sysctlbyname(f.sysctl, &value, &size, nullptr, 0) == 0 && value != 0;
#else
    (void)f;
    return false;
#endif
}

std::vector<CpuFeature> detect() {
    std::vector<CpuFeature> features;
    for (const FeatureBit& f : kFeatureBits) features.push_back({f.name, has_feature(f)});
    return features;
}

std::string detect_name() {
#if defined(__APPLE__)
    char name[128] = {};
    size_t size = sizeof name - 1;
    return sysctlbyname("machdep.cpu.brand_string", name, &size, nullptr, 0) == 0 ? name : "";
#else
    // Boards name themselves in the device tree; it ends with a NUL.
    std::ifstream model("/proc/device-tree/model");
    std::string name;
    std::getline(model, name, '\0');
    return name;
#endif
}

#else

std::vector<CpuFeature> detect() {
    return {};
}
std::string detect_name() {
    return "";
}

#endif

}  // namespace

const std::vector<CpuFeature>& cpu_features() {
    static const std::vector<CpuFeature> found = detect();
    return found;
}

std::string cpu_name() {
    return detect_name();
}

const char* cpu_family() {
#if defined(WHISPERQ_X86)
    return "x86_64";
#elif defined(WHISPERQ_ARM64)
    return "aarch64";
#else
    return "other";
#endif
}

}  // namespace whisperq
