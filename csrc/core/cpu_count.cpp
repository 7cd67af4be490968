#include "core/cpu_count.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif

namespace whisperq {
namespace {

#ifdef __linux__

constexpr double kUnlimited = 1e9;

int affinity_cpus() {
    cpu_set_t set;
    CPU_ZERO(&set);
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
}

// cgroup v2: "cpu.max" holds "<quota|max> <period>" in microseconds.
double quota_v2(const std::string& folder) {
    std::ifstream file(folder + "/cpu.max");
    std::string quota;
    double period = 0;
    if (!(file >> quota >> period) || quota == "max" || period <= 0) return kUnlimited;
    return std::strtod(quota.c_str(), nullptr) / period;
}

double quota_v1(const std::string& folder) {
    double quota = -1, period = 0;
    std::ifstream(folder + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(folder + "/cpu.cfs_period_us") >> period;
    return quota > 0 && period > 0 ? quota / period : kUnlimited;
}

// The limit of a group is the smallest on its way up to the root of the hierarchy.
template <typename Quota>
double smallest_on_the_way_up(const std::string& root, std::string path, Quota quota) {
    double cpus = quota(root);
    while (path.size() > 1) {
        cpus = std::min(cpus, quota(root + path));
        path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
    return cpus;
}

// Lines of /proc/self/cgroup are "<id>:<controllers>:<path>"; v2 has id 0 and no controllers.
double cgroup_cpus() {
    double cpus = kUnlimited;
    std::ifstream groups("/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {
        const size_t first = line.find(':');
        const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const std::string path = line.substr(second + 1);
        if (controllers.empty()) {
            cpus = std::min(cpus, smallest_on_the_way_up("/sys/fs/cgroup", path, quota_v2));
        } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
            cpus = std::min(cpus, smallest_on_the_way_up("/sys/fs/cgroup/cpu", path, quota_v1));
        }
    }
    return cpus;
}

#endif

}  // namespace

int usable_cpus() {
    int cpus = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
#ifdef __linux__
    if (const int allowed = affinity_cpus()) cpus = std::min(cpus, allowed);
    cpus = static_cast<int>(std::min<double>(cpus, std::ceil(cgroup_cpus())));
#endif
    return std::max(1, cpus);
}

double cpu_quota() {
#ifdef __linux__
    const double cpus = cgroup_cpus();
    if (cpus < kUnlimited) return cpus;
#endif
    return 0;
}

}  // namespace whisperq
