// The ResNets with attention against timm's own, which scripts/test -L slow installs. What the
// errors come from is in parity_test.cc, which has the same models with the layers written out.
#include <gtest/gtest.h>

#include <cstdlib>

#include "parity.h"

namespace skipway {
namespace {

class AttentionAgainstTimm : public ParityTest {
 protected:
  void SetUp() override {
    python_ = SKIPWAY_SOURCE_DIR "/.venv-timm/bin/python";
    if (const char* python = std::getenv("SKIPWAY_TIMM_PYTHON")) python_ = python;
    judge_ = "timm";
    if (!std::filesystem::exists(python_))
      GTEST_SKIP() << "no " << python_
                   << "; scripts/test -L slow makes it, SKIPWAY_TIMM_PYTHON names another";
  }

  static std::vector<ModelSpec> specs() {
    std::vector<ModelSpec> all;
    for (const char* name : {"resnet18", "resnet50"})
      for (const char* attention : {"se", "eca", "cbam"}) {
        ModelSpec& spec = all.emplace_back();
        spec.name = name;
        spec.attention = attention;
        spec.stem = all.size() % 2 == 0 ? "imagenet" : "cifar";
      }
    return all;
  }
};

TEST_F(AttentionAgainstTimm, StepAgreesInFp32) {
  compare_steps(specs(), at::kFloat, /*count=*/4, /*last_side=*/2, /*forward_tolerance=*/6e-4,
                /*gradient_tolerance=*/0.1);
}

TEST_F(AttentionAgainstTimm, StepAgreesInFp64) {
  compare_steps(specs(), at::kDouble, /*count=*/8, /*last_side=*/1, /*forward_tolerance=*/1e-12,
                /*gradient_tolerance=*/1e-11);
}

}  // namespace
}  // namespace skipway
