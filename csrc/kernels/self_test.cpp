#include "kernels/self_test.h"

#include "kernels/self_test/families.h"

namespace whisperq::kernels {

// A new kernel needs a test in its family, and a fault in tests/cpp/check_self_test.cpp.
static_assert(sizeof(KernelTable) == 17 * sizeof(void*), "a kernel that the self-test does not know");

void self_test(const KernelTable& table, Findings& findings) {
    self_tests::test_products(table, findings);
    self_tests::test_values(table, findings);
    self_tests::test_attention(table, findings);
    self_tests::test_cached_attention(table, findings);
}

}  // namespace whisperq::kernels
