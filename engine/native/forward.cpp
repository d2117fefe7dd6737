// The forward of a Llama or Qwen3 model with int8 weights and 16-bit rows (W8A16), whole steps at a time.
//
// The C functions at the end are all that Python sees (`engine/native/library.py`). Answers are the same in any
// batch and with any chunking, since no row's arithmetic depends on another row.
#include "decoder.h"

namespace {

constexpr int kExactLogits = 32;  // leading candidates whose logits are computed again in float32

struct Step {
  int64_t num_rows, num_sequences, num_logits, num_captured;
  const int64_t *token_ids, *positions, *slots;                 // [rows]
  const int64_t *first_rows, *widths;                           // [sequences]
  const int64_t* const* block_ids;                              // [sequences] each [blocks]
  const int64_t* logit_rows;                                    // [num_logits]
  const int64_t* captured;  // [num_captured] layers, then -1 where the state after the final norm is wanted
  uint16_t* const* cache;                                       // [layers], blocks as attention.h reads them
  float *logits, *features;                                     // [num_logits, V], [rows, num_captured, D]
};

struct Model : Decoder {
  int64_t vocabulary;
  const uint16_t* head_rows;  // [V, D] bfloat16
  std::vector<float> peaks;   // of one step, kept for the next

  Model(const Parts& parts, int64_t vocabulary, const uint16_t* head_rows)
      : Decoder(parts), vocabulary(vocabulary), head_rows(head_rows) {}
  void run(const Step& step);

 private:
  void capture_layer(const Step& step, int64_t place);
  void compute_logits(const Step& step);
  void sharpen(const float* row, const float* peaks_of_row, float* logits) const;
};

// Computes the leading logits of one row again from the weights as they were given.
void Model::sharpen(const float* row, const float* peaks_of_row, float* logits) const {
  int64_t leading[kExactLogits];
  int count = 0;
  float least = -INFINITY;
  for (int64_t pair = 0; pair < head.num_pairs; ++pair) {
    if (count == kExactLogits && !(peaks_of_row[pair] > least)) continue;
    for (int64_t column = pair * 32; column < pair * 32 + 32 && column < vocabulary; ++column) {
      if (count == kExactLogits && !(logits[column] > least)) continue;
      int at = count < kExactLogits ? count++ : kExactLogits - 1;
      for (; at > 0 && logits[leading[at - 1]] < logits[column]; --at) leading[at] = leading[at - 1];
      leading[at] = column;
      least = logits[leading[count - 1]];
    }
  }
  for (int at = 0; at < count; ++at) {
    const uint16_t* weight = head_rows + leading[at] * hidden;
    Floats total = Floats{};
    for (int64_t part = 0; part < hidden; part += kLanes) total += load(row + part) * load_bfloat16(weight + part);
    logits[leading[at]] = sum(total);
  }
}

void Model::compute_logits(const Step& step) {
#pragma omp for
  for (int64_t at = 0; at < step.num_logits; ++at) {
    norm_row(&stream[step.logit_rows[at] * hidden], final_norm, &normed[at * hidden]);
    scales[at] = quantise(&normed[at * hidden], hidden, at, head.padded_depth(), bytes.data());
  }
  multiply(head, bytes.data(), step.num_logits, has_amx, [&](int64_t row, int64_t pair, Floats left, Floats right) {
    float values[32];
    store(values, left * scales[row]);
    store(values + 16, right * scales[row]);
    const int64_t rest = vocabulary - pair * 32, count = rest < 32 ? rest : 32;
    std::memcpy(step.logits + row * vocabulary + pair * 32, values, count * sizeof(float));
    for (int64_t at = count; at < 32; ++at) values[at] = values[0];
    peaks[row * head.num_pairs + pair] = largest(larger(load(values), load(values + 16)));
  });
#pragma omp for
  for (int64_t at = 0; at < step.num_logits; ++at)
    sharpen(&normed[at * hidden], &peaks[at * head.num_pairs], step.logits + at * vocabulary);
}

// The outputs of the captured layer that stands at `place` in the features.
void Model::capture_layer(const Step& step, int64_t place) {
#pragma omp for
  for (int64_t row = 0; row < step.num_rows; ++row)
    std::memcpy(step.features + (row * step.num_captured + place) * hidden, &stream[row * hidden],
                hidden * sizeof(float));
}

void Model::run(const Step& step) {
  const Rows rows{step.num_rows, step.positions, step.slots, step.positions};
  grow_buffers(step.num_rows > step.num_logits ? step.num_rows : step.num_logits, 0);
  grow(peaks, step.num_logits * head.num_pairs);
  tasks.clear();
  for (int64_t index = 0; index < step.num_sequences; ++index)
    list_tasks(step.first_rows[index], step.widths[index], {step.block_ids[index]});
#pragma omp parallel
  {
#ifdef SPARKGATE_AMX
    if (has_amx) shape_tiles(false);
#endif
    embed(step.token_ids, step.num_rows);
    int64_t num_captured = 0;
    for (size_t index = 0; index < layers.size(); ++index) {
      run_layer(*layers[index], rows, step.cache[index], step.cache[index]);
      if (num_captured < step.num_captured && step.captured[num_captured] == static_cast<int64_t>(index))
        capture_layer(step, num_captured++);
    }
    if (num_captured < step.num_captured) {
#pragma omp for
      for (int64_t row = 0; row < step.num_rows; ++row)
        norm_row(&stream[row * hidden], final_norm,
                 step.features + (row * step.num_captured + num_captured) * hidden);
    }
    if (step.num_logits > 0) compute_logits(step);
#ifdef SPARKGATE_AMX
    if (has_amx) _tile_release();
#endif
  }
}

}  // namespace

extern "C" {

Model* sparkgate_new(const Parts* parts, int64_t vocabulary, const uint16_t* head_rows) {
  return new Model(*parts, vocabulary, head_rows);
}

void sparkgate_free(Model* model) { delete model; }

int sparkgate_has_amx(const Decoder* decoder) { return decoder->has_amx; }

void sparkgate_use_amx(Decoder* decoder, int wanted) { decoder->has_amx = wanted && ask_for_amx(); }

void sparkgate_set_weight(Decoder* decoder, int64_t layer, int which, const float* source, int64_t columns,
                          int64_t depth) {
  decoder->set_weight(layer, which, source, columns, depth);
}

// `which`: 0 before attention, 1 before the mlp, 2 queries, 3 keys.
void sparkgate_set_norm(Decoder* decoder, int64_t layer, int which, const float* source, int64_t size) {
  Layer& to = *decoder->layers[layer];
  std::vector<float>* norms[] = {&to.attention_norm, &to.mlp_norm, &to.query_norm, &to.key_norm};
  norms[which]->assign(source, source + size);
}

void sparkgate_forward(Model* model, const Step* step) { model->run(*step); }

}
