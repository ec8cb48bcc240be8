// Where each image and the grey between them stand.
#include "data/grid.h"

#include <ATen/ATen.h>

#include "data/files_for_test.h"

namespace skipway {
namespace {

uint8_t red_at(const Image& image, int64_t y, int64_t x) {
  return image.rgb[static_cast<size_t>((y * image.width + x) * 3)];
}

TEST(Grid, PlacesImagesInRowsOnGrey) {
  at::Tensor images = at::zeros({3, 2, 4, 3}, at::kByte);
  for (int i = 0; i < 3; ++i) images[i].fill_(10 * (i + 1));
  images[1][0][1].fill_(99);
  const Image grid = image_grid(images, 2, 3, 1);
  EXPECT_EQ(grid.height, 2 * 6 + 1);
  EXPECT_EQ(grid.width, 2 * 12 + 1);
  EXPECT_EQ(red_at(grid, 0, 0), 10);
  EXPECT_EQ(red_at(grid, 0, 12), 128);  // the gap
  EXPECT_EQ(red_at(grid, 0, 13), 20);
  EXPECT_EQ(red_at(grid, 2, 16), 99);  // one pixel as 3 x 3
  EXPECT_EQ(red_at(grid, 2, 18), 99);
  EXPECT_EQ(red_at(grid, 3, 16), 20);
  EXPECT_EQ(red_at(grid, 7, 11), 30);
  EXPECT_EQ(red_at(grid, 12, 24), 128);  // no fourth image
}

TEST(Grid, FewerImagesThanColumnsMakeANarrowPicture) {
  EXPECT_EQ(image_grid(at::zeros({2, 4, 4, 3}, at::kByte), 10, 1).width, 4 + 2 + 4);
}

TEST(Grid, RefusesWhatHasNoPixels) {
  const at::Tensor images = at::zeros({2, 4, 4, 3}, at::kByte);
  EXPECT_NE(message_of(ErrorKind::kUsage, [&] { image_grid(images, 0, 1); }), "");
  EXPECT_NE(message_of(ErrorKind::kUsage, [&] { image_grid(images, 1, 0); }), "");
  EXPECT_NE(message_of(ErrorKind::kUsage, [&] { image_grid(images, 1, 1'000'000); }), "");
  EXPECT_NE(message_of(ErrorKind::kUsage, [&] { image_grid(images.narrow(0, 0, 0), 1, 1); }), "");
}

}  // namespace
}  // namespace skipway
