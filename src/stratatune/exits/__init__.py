"""The formats in which a trained model leaves: native adapter, peft, merged."""
