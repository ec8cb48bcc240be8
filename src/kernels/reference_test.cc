#include "kernels/reference.h"

#include <gtest/gtest.h>

#include <vector>

namespace skipway::kernels {
namespace {

// A 3x3 map of one channel and a filter whose values are their own names: sums by hand.
const ConvShape kShape{1, 3, 3, 1, 1, 3, 1, 1};
const std::vector<float> kSrc = {1, 2, 3, 4, 5, 6, 7, 8, 9};
const std::vector<float> kWeights = {10, 20, 30, 40, 50, 60, 70, 80, 90};

TEST(Reference, ForwardSumsWhatIsUnderTheWindow) {
  std::vector<float> dst(9);
  double sum = 0, squares = 0;
  ForwardArguments a;
  a.src = kSrc.data(), a.weights = kWeights.data(), a.dst = dst.data();
  a.sum = &sum, a.sum_of_squares = &squares;
  reference_forward(kShape, Type::kFp32, a, {});
  EXPECT_EQ(dst[0], 1 * 50 + 2 * 60 + 4 * 80 + 5 * 90);
  EXPECT_EQ(dst[4], 10 + 40 + 90 + 160 + 250 + 360 + 490 + 640 + 810);
  EXPECT_EQ(dst[8], 5 * 10 + 6 * 20 + 8 * 40 + 9 * 50);
  double want = 0, want_squares = 0;
  for (const float v : dst) {
    want += static_cast<double>(v);
    want_squares += static_cast<double>(v) * static_cast<double>(v);
  }
  EXPECT_EQ(sum, want);
  EXPECT_EQ(squares, want_squares);
}

TEST(Reference, StrideAndBf16AndWhatFollowsAConvolution) {
  const ConvShape shape{1, 3, 3, 1, 1, 1, 2, 0};  // picks the corners
  const std::vector<uint16_t> src = {0x3F80, 0, 0x4000, 0, 0, 0, 0x4040, 0, 0x4080};  // 1 2 3 4
  const std::vector<uint16_t> residual = {0, 0, 0, 0x3F80};
  const std::vector<float> weights = {2};
  const float bias = -5;
  std::vector<uint16_t> dst(4);
  ForwardArguments a;
  a.src = src.data(), a.weights = weights.data(), a.dst = dst.data();
  a.bias = &bias, a.residual = residual.data(), a.relu = true;
  reference_forward(shape, Type::kBf16, a, {});
  EXPECT_EQ(dst, (std::vector<uint16_t>{0, 0, 0x3F80, 0x4080}));  // 2-5, 4-5, 6-5, 8-5+1
}

TEST(Reference, BackwardIsTheTransposeOfForward) {
  std::vector<float> grad(9), grad_src(9, 1), grad_weights(9);
  grad[0] = 1, grad[5] = 2;  // of the upper left pixel and the one to the right of the middle
  BackwardArguments a;
  a.src = kSrc.data(), a.weights = kWeights.data(), a.grad_dst = grad.data();
  a.grad_src = grad_src.data(), a.add = true, a.grad_weights = grad_weights.data();
  reference_backward(kShape, Type::kFp32, a, {});
  EXPECT_EQ(grad_src, (std::vector<float>{51, 60 + 2 * 10 + 1, 2 * 20 + 1,  //
                                          81, 90 + 2 * 40 + 1, 2 * 50 + 1,  //
                                          1, 2 * 70 + 1, 2 * 80 + 1}));
  EXPECT_EQ(grad_weights, (std::vector<float>{2 * 2, 2 * 3, 0,      //
                                              2 * 5, 1 + 2 * 6, 2,  //
                                              2 * 8, 4 + 2 * 9, 5}));
}

TEST(Reference, BatchNormsAroundAConvolution) {
  const ConvShape shape{1, 1, 2, 1, 1, 1, 1, 0};
  const std::vector<float> src = {1, -1}, weights = {3}, grad = {5, 7}, dst = {2, 4};
  const float scale = 2, shift = 1;                      // behind the ReLU: 3, 0
  const float by_grad = 1, by_dst = 10, constant = 100;  // the gradient: 125, 147
  std::vector<float> grad_src(2), grad_weights(1);
  double sum = 0, with_src = 0;
  BackwardArguments a;
  a.src = src.data(), a.src_scale = &scale, a.src_shift = &shift;
  a.weights = weights.data(), a.grad_dst = grad.data(), a.dst = dst.data();
  a.by_grad = &by_grad, a.by_dst = &by_dst, a.constant = &constant;
  a.grad_src = grad_src.data(), a.grad_weights = grad_weights.data();
  a.sum = &sum, a.sum_with_src = &with_src;
  reference_backward(shape, Type::kFp32, a, {});
  EXPECT_EQ(grad_src, (std::vector<float>{375, 0}));
  EXPECT_EQ(grad_weights, (std::vector<float>{375}));
  EXPECT_EQ(sum, 375);
  EXPECT_EQ(with_src, 375);
}

}  // namespace
}  // namespace skipway::kernels
