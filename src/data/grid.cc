// Images laid out in rows on grey.
#include "data/grid.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"

namespace skipway {

Image image_grid(const at::Tensor& images, int64_t columns, int64_t scale, int64_t gap) {
  if (images.dim() != 4 || images.size(0) < 1 || images.size(3) != 3 || columns < 1 || scale < 1 ||
      gap < 0) {
    fail(ErrorKind::kUsage, "grid",
         "expected images [n,h,w,3], a column and a scale of at least 1, got [{}], {} and {}",
         fmt::join(images.sizes(), ","), columns, scale);
  }
  constexpr uint8_t kMiddleGrey = 128;
  const int64_t count = images.size(0);
  const int64_t across = std::min(columns, count);
  const int64_t down = (count + across - 1) / across;
  const int64_t height = images.size(1) * scale;
  const int64_t width = images.size(2) * scale;

  Image grid{down * (height + gap) - gap, across * (width + gap) - gap, {}};
  constexpr int64_t kMostRows = 1'000'000, kMostPixels = 500'000'000;  // libpng's; 1.5 GB
  if (grid.height + gap > kMostRows || (grid.height + gap) * (grid.width + gap) > kMostPixels)
    fail(
        ErrorKind::kUsage, "grid",
        "expected a picture that a PNG can hold, got {} x {} pixels; take fewer images, or another "
        "number of columns",
        grid.width, grid.height);
  const at::Tensor cells =
      images.cpu().repeat_interleave(scale, 1).repeat_interleave(scale, 2).contiguous();
  grid.rgb.assign(static_cast<size_t>(grid.height * grid.width * 3), kMiddleGrey);
  at::Tensor canvas = at::from_blob(grid.rgb.data(), {grid.height, grid.width, 3}, at::kByte);
  for (int64_t i = 0; i < count; ++i) {
    canvas.narrow(0, i / across * (height + gap), height)
        .narrow(1, i % across * (width + gap), width)
        .copy_(cells[i]);
  }
  return grid;
}

}  // namespace skipway
