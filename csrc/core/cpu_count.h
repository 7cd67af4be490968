// How many threads are worth starting here.
#pragma once

namespace whisperq {

// CPUs that this process may run on: the smallest of the machine's, its affinity mask's and, on Linux, the CPU quota of
// its cgroup (v2 or v1) and that group's parents, rounded up. At least 1.
int usable_cpus();

// The CPU quota of this process's cgroup and that group's parents, in CPUs; 0 where there is none.
double cpu_quota();

}  // namespace whisperq
