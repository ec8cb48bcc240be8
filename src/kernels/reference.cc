#include "kernels/reference.h"

#include <vector>

#include "kernels/bf16.h"
#include "kernels/pieces.h"

namespace skipway::kernels {
namespace {

using Values = std::vector<double>;

template <class T>
double load(T from) {
  return static_cast<double>(widened(from));
}

void store(double value, float& to) { to = static_cast<float>(value); }
void store(double value, Bf16& to) { to = narrowed(static_cast<float>(value)); }

double relu(double value) { return value < 0 ? 0 : value; }  // NaN stays NaN

int64_t inputs(const ConvShape& s) { return s.h * s.w * s.c; }  // of an image
int64_t outputs(const ConvShape& s) { return s.out_h() * s.out_w() * s.k; }

template <class T>
Values values_of(const T* from, int64_t count) {
  Values values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = load(from[i]);
  return values;
}

// What is convolved: the source, behind a BatchNorm and ReLU where there is one.
template <class T, class Arguments>
Values input_values(const ConvShape& s, const Arguments& a) {
  Values values = values_of(static_cast<const T*>(a.src), s.n * inputs(s));
  const auto c = static_cast<size_t>(s.c);
  if (a.src_scale != nullptr) {
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = relu(load(a.src_scale[i % c]) * values[i] + load(a.src_shift[i % c]));
  }
  return values;
}

// The gradient of dst, through a BatchNorm where there is one.
template <class T>
Values gradient_values(const ConvShape& s, const BackwardArguments& a) {
  Values values = values_of(static_cast<const T*>(a.grad_dst), s.n * outputs(s));
  const auto k = static_cast<size_t>(s.k);
  if (a.dst != nullptr) {
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = load(a.by_grad[i % k]) * values[i] +
                  load(a.by_dst[i % k]) * load(static_cast<const T*>(a.dst)[i]) +
                  load(a.constant[i % k]);
  }
  return values;
}

// Calls visit(tap, index of its first input, index of the pixel's first output) for each output
// pixel of an image and each tap that lies inside of the map; indices within the image.
template <class Visit>
void for_each_tap(const ConvShape& s, const Visit& visit) {
  for (int64_t y = 0; y < s.out_h(); ++y)
    for (int64_t x = 0; x < s.out_w(); ++x)
      for (int64_t r = 0; r < s.size; ++r)
        for (int64_t q = 0; q < s.size; ++q) {
          const int64_t from_y = y * s.stride + r - s.padding;
          const int64_t from_x = x * s.stride + q - s.padding;
          if (from_y >= 0 && from_y < s.h && from_x >= 0 && from_x < s.w)
            visit(r * s.size + q, (from_y * s.w + from_x) * s.c, (y * s.out_w() + x) * s.k);
        }
}

// to[i] += factor * from[i]
void add_scaled(double factor, const double* from, int64_t count, double* to) {
  for (int64_t i = 0; i < count; ++i) to[i] += factor * from[i];
}

template <class T>
void forward_of(const ConvShape& s, const ForwardArguments& a, const Threads& threads) {
  const Values x = input_values<T>(s, a);
  const int64_t taps = s.size * s.size;
  Values weights(static_cast<size_t>(s.k * taps * s.c));  // [tap,c,k]
  for (int64_t k = 0; k < s.k; ++k)
    for (int64_t i = 0; i < taps * s.c; ++i)
      weights[static_cast<size_t>(i * s.k + k)] = load(a.weights[k * taps * s.c + i]);
  Values sums(static_cast<size_t>(threads.count * 2 * s.k));
  threads.run([&](int thread) {
    double* mine = sums.data() + thread * 2 * s.k;
    const Share images(s.n, thread, threads.count);
    for (int64_t image = images.begin; image < images.end; ++image) {
      const double* from = x.data() + image * inputs(s);
      Values values(static_cast<size_t>(outputs(s)));
      for_each_tap(s, [&](int64_t tap, int64_t in, int64_t out) {
        for (int64_t c = 0; c < s.c; ++c)
          add_scaled(from[in + c], weights.data() + (tap * s.c + c) * s.k, s.k,
                     values.data() + out);
      });
      T* dst = static_cast<T*>(a.dst) + image * outputs(s);
      for (int64_t i = 0; i < outputs(s); ++i) {
        double value = values[static_cast<size_t>(i)];
        if (a.bias != nullptr) value += load(a.bias[i % s.k]);
        if (a.residual != nullptr)
          value += load(static_cast<const T*>(a.residual)[image * outputs(s) + i]);
        if (a.relu) value = relu(value);
        store(value, dst[i]);
        mine[i % s.k] += value;
        mine[s.k + i % s.k] += value * value;
      }
    }
  });
  if (a.sum != nullptr) add_sums(sums.data(), threads.count, s.k, a.sum, a.sum_of_squares);
}

template <class T>
void source_gradient(const ConvShape& s, const BackwardArguments& a, const Values& x,
                     const Values& grad, const Threads& threads) {
  const Values weights = values_of(a.weights, s.k * s.size * s.size * s.c);
  Values sums(static_cast<size_t>(threads.count * 2 * s.c));
  threads.run([&](int thread) {
    double* mine = sums.data() + thread * 2 * s.c;
    const Share images(s.n, thread, threads.count);
    for (int64_t image = images.begin; image < images.end; ++image) {
      const double* g = grad.data() + image * outputs(s);
      Values values(static_cast<size_t>(inputs(s)));
      for_each_tap(s, [&](int64_t tap, int64_t in, int64_t out) {
        for (int64_t k = 0; k < s.k; ++k)
          add_scaled(g[out + k], weights.data() + (k * s.size * s.size + tap) * s.c, s.c,
                     values.data() + in);
      });
      for (int64_t i = 0; i < inputs(s); ++i) {
        const int64_t at = image * inputs(s) + i;
        double value = values[static_cast<size_t>(i)];
        if (a.src_scale != nullptr && x[static_cast<size_t>(at)] <= 0) value = 0;
        if (a.sum != nullptr) {
          mine[i % s.c] += value;
          mine[s.c + i % s.c] += value * load(static_cast<const T*>(a.src)[at]);
        }
        T& to = static_cast<T*>(a.grad_src)[at];
        store(a.add ? value + load(to) : value, to);
      }
    }
  });
  if (a.sum != nullptr) add_sums(sums.data(), threads.count, s.c, a.sum, a.sum_with_src);
}

void weights_gradient(const ConvShape& s, const Values& x, const Values& grad, float* grad_weights,
                      const Threads& threads) {
  const int64_t depth = s.size * s.size * s.c;
  Values values(static_cast<size_t>(s.k * depth));
  threads.run([&](int thread) {
    const Share channels(s.k, thread, threads.count);
    for (int64_t image = 0; image < s.n; ++image) {
      const double *from = x.data() + image * inputs(s), *g = grad.data() + image * outputs(s);
      for_each_tap(s, [&](int64_t tap, int64_t in, int64_t out) {
        for (int64_t k = channels.begin; k < channels.end; ++k)
          add_scaled(g[out + k], from + in, s.c, values.data() + k * depth + tap * s.c);
      });
    }
  });
  for (int64_t i = 0; i < s.k * depth; ++i) store(values[static_cast<size_t>(i)], grad_weights[i]);
}

template <class T>
void backward_of(const ConvShape& s, const BackwardArguments& a, const Threads& threads) {
  const Values x = a.src != nullptr ? input_values<T>(s, a) : Values();
  const Values grad = gradient_values<T>(s, a);
  if (a.grad_src != nullptr) source_gradient<T>(s, a, x, grad, threads);
  if (a.grad_weights != nullptr) weights_gradient(s, x, grad, a.grad_weights, threads);
}

}  // namespace

void reference_forward(const ConvShape& shape, Type maps, const ForwardArguments& arguments,
                       const Threads& threads) {
  (maps == Type::kFp32 ? forward_of<float> : forward_of<Bf16>)(shape, arguments, threads);
}

void reference_backward(const ConvShape& shape, Type maps, const BackwardArguments& arguments,
                        const Threads& threads) {
  (maps == Type::kFp32 ? backward_of<float> : backward_of<Bf16>)(shape, arguments, threads);
}

}  // namespace skipway::kernels
