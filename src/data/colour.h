// What changes the colours of an image and leaves its pixels where they are. Definitions are those
// of torchvision.transforms.functional on uint8 tensors, which cuts fractions off.
#pragma once
#include "base/rng.h"
#include "data/pixels.h"

namespace skipway {

/// Each value times `factor` >= 0, at most 255.
void adjust_brightness(Pixels image, double factor);
/// Away from the mean grey of the image (factor > 1) or towards it (0 <= factor < 1).
void adjust_contrast(Pixels image, double factor);
/// Away from each pixel's grey (factor > 1) or towards it (0 <= factor < 1).
void adjust_saturation(Pixels image, double factor);
/// Turns the hue by `turn` of the colour circle, in [-0.5, 0.5]. A turn of 0 may still change a
/// value by one, as there.
void adjust_hue(Pixels image, double turn);
/// Away from the blurred image (factor > 1) or towards it (0 <= factor < 1). The pixels of the
/// border stay as they are.
void adjust_sharpness(Pixels image, double factor);
/// Keeps the highest `bits` of each value, 0 to 8.
void posterize(Pixels image, int bits);
/// Inverts values from `threshold` on.
void solarize(Pixels image, double threshold);
/// Stretches each channel to 0 … 255.
void autocontrast(Pixels image);
/// Flattens the histogram of each channel.
void equalize(Pixels image);

/// How far each is drawn from what leaves the image as it is; 0: that one is left out.
struct JitterOptions {
  double brightness = 0;  // factors from max(0, 1 - x) to 1 + x
  double contrast = 0;
  double saturation = 0;
  double hue = 0;  // turns from -x to x, at most 0.5

  bool any() const { return brightness > 0 || contrast > 0 || saturation > 0 || hue > 0; }
};

/// The four in an order drawn for the image, as torchvision's ColorJitter.
void jitter(Pixels image, const JitterOptions& options, Rng rng);

}  // namespace skipway
