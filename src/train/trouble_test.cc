#include "train/trouble.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "model/resnet.h"

namespace skipway {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class TroubleTest : public testing::Test {
 protected:
  TroubleTest() : model_(spec(), 1) {}

  static ModelSpec spec() {
    ModelSpec spec;
    spec.image_size = 8;
    return spec;
  }
  at::Tensor parameter(const std::string& wanted) {
    for (const auto& [name, tensor] : model_.parameters())
      if (name == wanted) return tensor;
    ADD_FAILURE() << wanted;
    return {};
  }
  Breakdown find() {
    at::manual_seed(1);
    return find_breakdown(model_, at::randn({4, 3, 8, 8}), at::arange(4), at::kFloat);
  }

  ResNet model_;
};

TEST_F(TroubleTest, TheFirstLayerThatGivesNoNumberIsNamed) {
  parameter("layer2.0.conv1.weight").detach()[1][2][0][0] = NAN;
  const Breakdown found = find();
  EXPECT_THAT(found.where, HasSubstr("of layer2.0.conv1"));
  EXPECT_THAT(found.weights, ElementsAre("layer2.0.conv1.weight"));
  EXPECT_THAT(found.gradients, IsEmpty());
  EXPECT_EQ(describe(found), found.where +
                                 " was the first that is not finite (layer2.0.conv1.weight was not "
                                 "before it)");
}

// The backward pass comes to the last layers first.
TEST_F(TroubleTest, OfGradientsTheLastLayersIsTheFirst) {
  for (const char* name : {"conv1.weight", "layer3.1.conv2.weight"}) {
    const at::Tensor filters = parameter(name);
    filters.mutable_grad() = at::full_like(filters.detach(), INFINITY);
  }
  const Breakdown found = find();
  EXPECT_EQ(found.where, "");
  EXPECT_THAT(found.gradients, ElementsAre("conv1.weight", "layer3.1.conv2.weight"));
  EXPECT_EQ(describe(found),
            "the gradient of layer3.1.conv2.weight was the first that is not finite");
}

TEST_F(TroubleTest, ASoundModelHasNone) {
  const Breakdown found = find();
  EXPECT_EQ(found.where, "");
  EXPECT_THAT(found.weights, IsEmpty());
  EXPECT_EQ(describe(found), "every layer still gives finite values");
}

}  // namespace
}  // namespace skipway
